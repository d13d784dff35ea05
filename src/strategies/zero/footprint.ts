import { type Host, takes16Bits } from '../../hooks/index.ts';
import type { FlatLayout } from '../../layout.ts';
import { type Bucket, bucketShards, planBuckets } from '../buckets.ts';
import { gradientSumsBytes } from '../compression/index.ts';
import { gradientStaging } from '../offload/gradient-on-disk.ts';
import { elementsKept, frozenKept, swapUnit } from '../offload/settings.ts';
import { oneBitBytes } from '../one-bit/index.ts';
import type { Precision } from '../precision/precision.ts';
import { planWindow } from '../precision/sixteen-bit-weights.ts';
import { elementBytes } from '../precision/wire.ts';
import { gathersFrozen, gathersParameters, zeroBytes } from './estimate.ts';
import { planGathers } from './gather-plan.ts';
import { sentGradientType, type ZeroOptions } from './options.ts';
import type { OptimizerRecipe } from './recipe.ts';
import { secondaryCount } from './plus-plus.ts';
import { planWindows } from './windows.ts';

/** Categories of the memory account that are known before any memory is taken, the largest first in reports. */
export const footprintCategories = [
  'parameters',
  'master',
  'optimizer',
  'gradients',
  'window',
  'communication',
  'io',
  'activations',
] as const;

/** Bytes a rank, by category. What ONNX Runtime takes inside a run, batches and the staging of collectives come on top. */
export type Footprint = Record<(typeof footprintCategories)[number], number>;

export interface FootprintRequest {
  options: ZeroOptions;
  host: Pick<Host, 'parameters' | 'segments' | 'frozen' | 'activationBytes'>;
  layout: FlatLayout;
  /** Of what training does not change. */
  frozen: FlatLayout | null;
  worldSize: number;
  optimizer: OptimizerRecipe;
  precision: Precision;
}

/** Makes the plans that a session would make, and adds up what they would take. */
export function footprint(request: FootprintRequest): Footprint {
  const { options, host, layout, worldSize, optimizer } = request;
  const gradientType = sentGradientType(options, request.precision);
  const precision = { ...request.precision, gradientType };
  const { stage, wholeGradients = stage < 2, offload = null } = options;
  const held = zeroBytes(
    stage,
    layout.total,
    worldSize,
    optimizer,
    precision,
    wholeGradients,
    offload,
    planWindow(layout, takes16Bits(host)).size,
  );
  const gradients = wholeGradients ? 0 : gradientWindow(request);
  return {
    ...held,
    optimizer: held.optimizer + compressionBytes(request),
    parameters: held.parameters + frozenBytes(request) + secondaryBytes(request),
    window: held.window + 4 * gradients + parameterWindows(request),
    communication:
      held.communication +
      (precision.gradientType === 'float32' ? 0 : gradients * elementBytes(precision.gradientType)),
    io: held.io + stagedGradients(request),
    activations: host.activationBytes ?? 0,
  };
}

export function totalBytes(bytes: Footprint): number {
  return footprintCategories.reduce((sum, category) => sum + bytes[category], 0);
}

/** Bytes of what compression keeps from step to step. */
function compressionBytes(request: FootprintRequest): number {
  const { options, layout, worldSize, optimizer } = request;
  const { oneBit, compression } = options;
  if (oneBit) return oneBitBytes(oneBit, layout, worldSize, optimizer.groups.length);
  // One rank has nobody to tell.
  if (!compression || worldSize === 1) return 0;
  return gradientSumsBytes(compression.compression, layout, bucketsOf(request));
}

/** Of what training does not change, the bytes that are in memory. */
function frozenBytes({ options, layout, frozen, worldSize }: FootprintRequest): number {
  if (!frozen) return 0;
  if (!gathersFrozen(options, worldSize)) return 4 * frozen.total;
  const elements = frozen.total / worldSize;
  const { offload } = options;
  if (!offload?.parameters) return 4 * elements;
  return 4 * elementsKept(elements, frozenKept(offload, layout.total / worldSize));
}

function secondaryBytes({
  options,
  layout,
  frozen,
  worldSize,
  precision,
}: FootprintRequest): number {
  if (worldSize === 1) return 0;
  const { secondaryRanks = 1 } = options.plusPlus ?? {};
  const trained = secondaryCount(layout.total, secondaryRanks) * elementBytes(precision.storage);
  return trained + secondaryCount(frozen?.total ?? 0, secondaryRanks) * 4;
}

/** Elements of what gradient buckets share. */
function gradientWindow(request: FootprintRequest): number {
  const { options, host } = request;
  return planWindows(bucketsOf(request), options.overlap ? 1 : host.segments.length).size;
}

function bucketsOf({ options, host, layout }: FootprintRequest): Bucket[] {
  const skippable = new Set(options.skippable);
  const { parameters, segments } = host;
  return planBuckets(parameters, layout, segments.length, options.reduceBucketSize, skippable);
}

/** Bytes of gradients on their way to disk, on the rank that has the longest. */
function stagedGradients(request: FootprintRequest): number {
  const { options, layout } = request;
  const { offload, wholeGradients } = options;
  if (!offload?.optimizer || offload.optimizer.ratio === 0 || wholeGradients) return 0;
  const buckets = bucketsOf(request);
  const byRank = layout.shards.map((_, rank) => {
    const parts = buckets.map((bucket) => bucketShards(bucket, layout)[rank]!);
    const { length, buffers } = gradientStaging(parts);
    return buffers * length * 4;
  });
  return Math.max(...byRank);
}

/** Bytes that parameters are gathered into, and widened into. */
function parameterWindows(request: FootprintRequest): number {
  const { options, host, layout, frozen, worldSize, precision } = request;
  const narrow = precision.storage !== 'float32';
  if (!gathersParameters(options, worldSize, narrow)) return 0;
  // Only what is read from disk has to begin where direct I/O can put it.
  const { maxInMemory = Number.POSITIVE_INFINITY } = options.offload?.parameters ?? {};
  const gathered = frozen && gathersFrozen(options, worldSize) ? frozen : null;
  const fromDisk = maxInMemory < (layout.total + (gathered?.total ?? 0)) / worldSize;
  const { wireSize, modelSize } = planGathers({
    parameters: host.parameters,
    layout,
    ...(gathered && { frozen: { parameters: host.frozen!, layout: gathered } }),
    segmentCount: host.segments.length,
    skippable: options.skippable,
    limits: options.gather!,
    narrow,
    ...(fromDisk && { alignment: swapUnit }),
    inPlace: options.inPlace ?? false,
  });
  return wireSize * elementBytes(precision.storage) + (narrow ? modelSize * 4 : 0);
}

import type { DeepSpeedConfig } from '../../config/index.ts';
import { type Host, requireCapability } from '../../hooks/index.ts';
import { type CompressionRecipe, compressionRecipe } from '../compression/index.ts';
import { type OneBitRecipe, oneBitRecipe } from '../one-bit/index.ts';
import { type OffloadSettings, offloadSettings } from '../offload/settings.ts';
import type { Precision, StorageType } from '../precision/precision.ts';
import { keepsWholeGradients } from './estimate.ts';
import type { GatherLimits } from './gather-plan.ts';
import { type PlusPlus, plusPlusOf } from './plus-plus.ts';
import type { ZeroStage } from './stage.ts';

export interface ZeroOptions {
  stage: ZeroStage;
  /** Stages 2 and 3: micro batches add up in whole gradients, which are reduced at the boundary only. */
  wholeGradients?: boolean;
  /** Elements. */
  reduceBucketSize: number;
  allgatherBucketSize: number;
  overlap: boolean;
  /** False: stages above 0 reduce whole buckets on every rank, as DeepSpeed does then. */
  reduceScatter: boolean;
  /** What gradients are multiplied by while they are summed, fp16's scale aside. */
  averaging: number;
  /** Stage 3 needs it. */
  gather?: GatherLimits;
  /** Stage 3: a parameter is read where its owner has it, in joint memory. */
  inPlace?: boolean;
  /** Segments that a step may leave out. */
  skippable?: readonly number[];
  /** Stage 0: an optimizer that sends one bit an element. */
  oneBit?: OneBitRecipe;
  /** Stage 3: what goes to disk. */
  offload?: OffloadSettings;
  /** Stages 0 and 1: lossy sums of gradients. */
  compression?: CompressionRecipe;
  /** Stage 3: less that is sent. */
  plusPlus?: PlusPlus;
}

/** What gradients are rounded to on their way, where they do not travel in a code of their own. */
export function sentGradientType(
  { compression, plusPlus }: Pick<ZeroOptions, 'compression' | 'plusPlus'>,
  { gradientType }: Precision,
): StorageType {
  return compression || plusPlus?.quantisedGradients ? 'float32' : gradientType;
}

/** What options depend on of a host. */
type OptionsHost = Pick<Host, 'name' | 'capabilities' | 'skippable'>;

/** What options depend on of the run. */
interface Ranks {
  worldSize: number;
  /** All of them are on one machine. */
  sharesMemory: boolean;
}

/** What a config asks of ZeRO. */
export function zeroOptions(
  config: DeepSpeedConfig,
  host: OptionsHost,
  { worldSize, sharesMemory }: Ranks,
): ZeroOptions {
  const zero = config.zero_optimization;
  const oneBit = oneBitRecipe(config);
  const offload = offloadSettings(config);
  const compression = compressionRecipe(config);
  const plusPlus = plusPlusOf(config, worldSize);
  // What arrives in a code, from disk or from a second copy has to arrive somewhere.
  const arrives =
    plusPlus.quantisedWeights || plusPlus.quantisedFrozen || plusPlus.secondaryRanks > 1 || offload;
  return {
    stage: zero.stage as ZeroStage,
    wholeGradients: keepsWholeGradients(config),
    reduceBucketSize: zero.reduce_bucket_size,
    allgatherBucketSize: zero.allgather_bucket_size,
    overlap: overlaps(config, host),
    reduceScatter: zero.reduce_scatter,
    averaging: averagingOf(config, worldSize),
    gather: gatherLimits(config),
    inPlace: zero.stage === 3 && worldSize > 1 && sharesMemory && !arrives,
    plusPlus,
    ...(config.progressive_layer_drop.enabled && { skippable: host.skippable ?? [] }),
    ...(oneBit && { oneBit }),
    ...(offload && { offload }),
    ...(compression && { compression }),
  };
}

/** What plain data parallelism asks of it. */
export function dataParallelOptions(host: OptionsHost): ZeroOptions {
  return {
    stage: 0,
    // PyTorch's DistributedDataParallel uses 25 MiB buckets; the same trade-off holds here.
    reduceBucketSize: (25 * 2 ** 20) / 4,
    allgatherBucketSize: Number.MAX_SAFE_INTEGER,
    overlap: host.capabilities.has('segments'),
    reduceScatter: false,
    averaging: 1,
  };
}

function gatherLimits({ zero_optimization: zero }: DeepSpeedConfig): GatherLimits {
  return {
    persistence: zero.stage3_param_persistence_threshold,
    persistentTotal: zero.stage3_model_persistence_threshold,
    live: zero.stage3_max_live_parameters,
    prefetch: zero.stage3_prefetch_bucket_size,
    reuse: zero.stage3_max_reuse_distance,
  };
}

const overlapKey = 'zero_optimization.overlap_comm';

/**
 * Buckets can leave during backward only where backward comes in pieces. A config that asks for it on
 * another host is refused; one that says nothing gets what the host can do.
 */
function overlaps(config: DeepSpeedConfig, host: OptionsHost): boolean {
  const asked = config.provenance.origins[overlapKey] !== 'default';
  if (!config.zero_optimization.overlap_comm) return false;
  if (asked) requireCapability(host, 'segments', overlapKey);
  return host.capabilities.has('segments');
}

/**
 * What the loss is multiplied by before backward, and every reduced gradient divided by: where the
 * average over ranks is taken. The host normalises the loss by the tokens of the whole global batch, so
 * a plain sum of gradients is already the mean. `prescale_gradients` leaves it so; otherwise gradients
 * are W / gradient_predivide_factor larger while they are summed, as DeepSpeed's are.
 */
export function averagingOf(config: DeepSpeedConfig, worldSize: number): number {
  return config.prescale_gradients ? 1 : worldSize / config.gradient_predivide_factor;
}

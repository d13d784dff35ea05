import { DeepSpeedError } from '../../errors.ts';
import {
  type GradientOwner,
  isBoundary,
  isSkipped,
  type Location,
  type ReducedGradient,
  type SegmentWorkEvent,
  type StepPlan,
} from '../../hooks/index.ts';
import type { NativeBuffer, NativeEngine, Region, Work } from '../../native/contract.ts';
import { type Bucket, bucketShards } from '../buckets.ts';
import type { GradientSums } from '../compression/index.ts';
import type { FlatLayout, Shard } from '../../layout.ts';
import type { GradientShard, SwappedGradient } from './gradient-shard.ts';
import type { StorageType } from '../precision/precision.ts';
import { createWire, type Sent, type Wire } from '../precision/wire.ts';
import { planWindows, type WindowPlan } from './windows.ts';

const bytesPerElement = 4;

export interface ReducerOptions {
  engine: NativeEngine;
  /** What takes the place of the engine's reduceScatter. */
  scatter?: NativeEngine['reduceScatter'];
  layout: FlatLayout;
  buckets: readonly Bucket[];
  rank: number;
  worldSize: number;
  segmentCount: number;
  /** Read at every step: fp16 changes it. */
  lossScale(): number;
  /** What gradients are rounded to before they are summed. */
  gradientType: StorageType;
  /** Each bucket goes to the ranks that own it; false: to all. Stage 0 has no owners. */
  reduceScatter: boolean;
  /** False at a boundary whose gradient stays with its rank, because something else travels. Default: never. */
  sends?(): boolean;
  /** Whole gradients: what sums the buckets of this step instead of a collective; null: nothing. */
  compressed?(): GradientSums | null;
  /** A bucket leaves while the next segment computes; false: all leave after the last backward. */
  overlap: boolean;
}

/** How gradients become what the optimizer reads: one of the three policies below. */
export interface GradientReducer extends GradientOwner {
  /** Called for every backward that was enqueued. */
  produced(event: SegmentWorkEvent): void;
  /** Bytes that the policy took, by what they are for. */
  readonly buffers: readonly NativeBuffer[];
  /** Where this rank's shard is on disk. */
  readonly swapped?: SwappedGradient | undefined;
}

function scatterOf({ engine, scatter }: ReducerOptions): NativeEngine['reduceScatter'] {
  return scatter ?? ((...call) => engine.reduceScatter(...call));
}

/** Buckets whose segment the plan left out: every rank knows that their gradient is zero. */
function skippedBuckets({ buckets }: ReducerOptions, { plan }: SegmentWorkEvent): Bucket[] {
  return buckets.filter(({ skippable }) => skippable !== null && isSkipped(plan, skippable));
}

/** Runs `reduce(bucket, after)` for every bucket that an enqueued backward has made whole. */
class Completion {
  readonly #options: ReducerOptions;
  readonly #held: { bucket: Bucket; after: Work }[] = [];

  constructor(options: ReducerOptions) {
    this.#options = options;
  }

  after(event: SegmentWorkEvent, reduce: (bucket: Bucket, after: Work) => void): void {
    const { buckets, segmentCount, overlap } = this.#options;
    const position = segmentCount - 1 - event.segment;
    for (const bucket of buckets) {
      if (bucket.completePosition === position) this.#held.push({ bucket, after: event.work });
    }
    if (!overlap && event.segment !== 0) return;
    // Without overlap every bucket waits for the last backward, so that nothing runs beside compute.
    for (const { bucket, after } of this.#held.splice(0)) {
      reduce(bucket, overlap ? after : event.work);
    }
  }
}

/**
 * Stages 0 and 1, and stage 2 where it reduces at the boundary: the whole gradient is kept and micro
 * batches add up in place; buckets are reduced once, at the accumulation boundary. Stage 0 leaves the sum
 * on every rank, the others on the owner only.
 */
export class WholeGradient implements GradientReducer {
  readonly accumulatesLocally = true;
  readonly buffers: readonly NativeBuffer[];
  readonly #options: ReducerOptions;
  readonly #gradient: NativeBuffer;
  readonly #completion: Completion;
  readonly #wire: Wire;
  #works: Work[] = [];

  constructor(options: ReducerOptions) {
    this.#options = options;
    this.#completion = new Completion(options);
    const shared = options.worldSize > 1;
    this.#gradient = options.engine.allocate(options.layout.total * bytesPerElement, {
      category: 'gradients',
      shared,
      name: 'gradients',
    });
    this.#wire = createWire(options.engine, this.#gradient, options.gradientType, shared);
    this.buffers = [this.#gradient];
  }

  get lossScale(): number {
    return this.#options.lossScale();
  }

  location(parameter: string): Location {
    return {
      buffer: this.#gradient,
      byteOffset: slotOf(this.#options.layout, parameter).offset * bytesPerElement,
    };
  }

  ready(): Work[] {
    return [];
  }

  produced(event: SegmentWorkEvent): void {
    if (!isBoundary(event.plan)) return;
    if (event.segment === 0) this.#clearSkipped(event);
    const stays = this.#options.worldSize === 1 && !this.#wire.narrows;
    if (stays || this.#options.sends?.() === false) return;
    this.#completion.after(event, (bucket, after) => this.#reduce(bucket, after));
  }

  /** A segment that was left out has a gradient of zero, which nobody need send. */
  #clearSkipped(event: SegmentWorkEvent): void {
    for (const bucket of skippedBuckets(this.#options, event)) {
      const cleared = this.#options.engine.fill(this.#region(bucket), 0);
      // Where a 16-bit sum is widened as a whole, its part of the wire must hold the zeros, too.
      this.#works.push(...this.#wire.send(bucket.offset, bucket.count, [cleared]).after);
    }
  }

  #reduce(bucket: Bucket, after: Work): void {
    const { engine, layout, rank, reduceScatter } = this.#options;
    const sums = this.#options.compressed?.();
    if (sums) {
      this.#works.push(...sums.sum(bucket, this.#region(bucket), [after]));
      return;
    }
    const sent = this.#wire.send(bucket.offset, bucket.count, [after]);
    if (!reduceScatter) {
      this.#works.push(engine.allReduce(sent.region, 'sum', sent.after));
      return;
    }
    const shards = bucketShards(bucket, layout);
    const own = shards[rank]!;
    const target =
      own.count === 0
        ? null
        : this.#region({ offset: bucket.offset + own.offset, count: own.count });
    this.#works.push(scatterOf(this.#options)(sent.region, shards, target, {}, sent.after));
  }

  reduced(): ReducedGradient {
    const { engine, layout, rank, reduceScatter } = this.#options;
    const after = this.#works;
    this.#works = [];
    const shard = this.#region(layout.shards[rank]!);
    if (reduceScatter) return { shard, after };
    const whole = this.#region({ offset: 0, count: layout.total });
    const local = this.#options.sends?.() === false;
    if (!this.#wire.narrows || local) return { shard, whole, after };
    return { shard, whole, after: [engine.copy(this.#wire.region(0, layout.total), whole, after)] };
  }

  #region({ offset, count }: Shard): Region {
    return {
      buffer: this.#gradient,
      byteOffset: offset * bytesPerElement,
      count,
      dtype: 'float32',
    };
  }
}

interface Pending {
  readonly bucket: Bucket;
  readonly reduction: Work;
  readonly plan: StepPlan;
  readonly accumulate: boolean;
}

/**
 * Stage 2: every micro batch's buckets are reduced to their owners, who add them to their shard; the
 * windows are used again as soon as a reduction has ended.
 */
export class ShardedGradient implements GradientReducer {
  readonly accumulatesLocally = false;
  readonly buffers: readonly NativeBuffer[];
  readonly #options: ReducerOptions;
  readonly #windows: WindowPlan;
  readonly #window: NativeBuffer;
  readonly #wire: Wire;
  readonly #shard: GradientShard;
  readonly #completion: Completion;
  readonly #bucketOf = new Map<string, Bucket>();
  /** The last reduction of each bucket: its memory is free when that has ended. */
  readonly #reductions: (Work | undefined)[];
  /** The work after which what a bucket brought to the shard is kept. */
  readonly #kept: (Work | undefined)[];
  /** All-reduced buckets that have not been added to the shard. */
  #pending: Pending[] = [];

  constructor(options: ReducerOptions, shard: GradientShard) {
    this.#options = options;
    this.#shard = shard;
    this.#completion = new Completion(options);
    // Without overlap all buckets wait for the end of backward, so none can share a place.
    this.#windows = planWindows(options.buckets, options.overlap ? 1 : options.segmentCount);
    this.#reductions = new Array(options.buckets.length).fill(undefined);
    this.#kept = new Array(options.buckets.length).fill(undefined);
    for (const bucket of options.buckets) {
      for (const name of bucket.parameters) this.#bucketOf.set(name, bucket);
    }
    const shared = options.worldSize > 1;
    this.#window = options.engine.allocate(this.#windows.size * bytesPerElement, {
      category: 'window',
      shared,
      name: 'gradient windows',
    });
    this.#wire = createWire(options.engine, this.#window, options.gradientType, shared);
    this.buffers = [this.#window, ...shard.buffers];
  }

  get swapped(): SwappedGradient | undefined {
    return this.#shard.swapped;
  }

  get lossScale(): number {
    return this.#options.lossScale();
  }

  location(parameter: string): Location {
    const bucket = this.#bucketOf.get(parameter)!;
    const within = slotOf(this.#options.layout, parameter).offset - bucket.offset;
    const offset = this.#windows.offsets[bucket.index]! + within;
    return { buffer: this.#window, byteOffset: offset * bytesPerElement };
  }

  ready(segment: number): Work[] {
    const position = this.#options.segmentCount - 1 - segment;
    const works = new Set<Work>();
    for (const bucket of this.#options.buckets) {
      if (bucket.firstPosition !== position) continue;
      this.#collect((pending) => this.#overlap(pending, bucket));
      // Backward writes fp32 windows; where the wire has its own memory, they are free by now.
      if (!this.#wire.narrows) for (const work of this.#busy(bucket)) works.add(work);
    }
    return [...works];
  }

  produced(event: SegmentWorkEvent): void {
    this.#completion.after(event, (bucket, after) => {
      this.#collect((pending) => this.#overlap(pending, bucket));
      const before = this.#wire.narrows ? [after, ...this.#busy(bucket)] : [after];
      const sent = this.#wire.send(this.#windows.offsets[bucket.index]!, bucket.count, before);
      const accumulate = event.plan.microBatch > 0;
      this.#reductions[bucket.index] = this.#options.reduceScatter
        ? this.#scatter(bucket, sent, event.plan, accumulate)
        : this.#reduceWhole(bucket, sent, event.plan, accumulate);
    });
    if (event.segment !== 0) return;
    this.#collect(() => true);
    if (event.plan.microBatch === 0) this.#clearSkipped(event);
  }

  /** A segment that was left out adds nothing: a step begins with a zero where it would have set its sum. */
  #clearSkipped(event: SegmentWorkEvent): void {
    const { engine, layout, rank } = this.#options;
    for (const bucket of skippedBuckets(this.#options, event)) {
      const own = bucketShards(bucket, layout)[rank]!;
      if (own.count === 0) continue;
      this.#put(bucket, own, event.plan, false, ({ region, after }) =>
        engine.fill(region, 0, after),
      );
    }
  }

  #scatter(bucket: Bucket, sent: Sent, plan: StepPlan, accumulate: boolean): Work {
    const { layout, rank } = this.#options;
    const shards = bucketShards(bucket, layout);
    const own = shards[rank]!;
    const scatter = (target: Region | null, after: Work[]) =>
      scatterOf(this.#options)(sent.region, shards, target, { accumulate }, [
        ...sent.after,
        ...after,
      ]);
    if (own.count === 0) return scatter(null, []);
    return this.#put(bucket, own, plan, accumulate, ({ region, after }) => scatter(region, after));
  }

  /** `write` puts this rank's part of a bucket into its place, and it is kept. Returns the work of `write`. */
  #put(
    bucket: Bucket,
    own: Shard,
    plan: StepPlan,
    accumulate: boolean,
    write: (place: { region: Region; after: Work[] }) => Work,
  ): Work {
    const { layout, rank } = this.#options;
    const start = bucket.offset + own.offset - layout.shards[rank]!.offset;
    const part = { bucket: bucket.index, start, count: own.count };
    const written = write(this.#shard.place(part, accumulate));
    this.#kept[bucket.index] = this.#shard.keep(part, written, isBoundary(plan));
    return written;
  }

  /** reduce_scatter false: every rank gets the sum of the bucket and keeps its part. */
  #reduceWhole(bucket: Bucket, { region, after }: Sent, plan: StepPlan, accumulate: boolean): Work {
    const reduction = this.#options.engine.allReduce(region, 'sum', after);
    this.#pending.push({ bucket, reduction, plan, accumulate });
    return reduction;
  }

  /**
   * Adds all-reduced buckets to the shard. It runs on the compute queue and waits there, so it is
   * enqueued as late as may be: before their memory is used again, or after the last backward.
   */
  #collect(due: (bucket: Bucket) => boolean): void {
    const { engine, layout, rank } = this.#options;
    const kept: Pending[] = [];
    for (const pending of this.#pending) {
      const { bucket, reduction, plan, accumulate } = pending;
      if (!due(bucket)) {
        kept.push(pending);
        continue;
      }
      const own = bucketShards(bucket, layout)[rank]!;
      if (own.count === 0) continue;
      const source = this.#wire.region(
        this.#windows.offsets[bucket.index]! + own.offset,
        own.count,
      );
      this.#reductions[bucket.index] = this.#put(bucket, own, plan, accumulate, (place) =>
        engine.axpby(source, place.region, 1, accumulate ? 1 : 0, [reduction, ...place.after]),
      );
    }
    this.#pending = kept;
  }

  #overlap(one: Bucket, other: Bucket): boolean {
    return this.#windows.overlaps[one.index]!.includes(other.index);
  }

  /** Reductions that still use the memory of a bucket. */
  #busy(bucket: Bucket): Work[] {
    return this.#windows.overlaps[bucket.index]!.flatMap((other) => {
      const reduction = this.#reductions[other];
      return reduction === undefined ? [] : [reduction];
    });
  }

  reduced(): ReducedGradient {
    return {
      shard: this.#shard.region,
      after: [...this.#reductions, ...this.#kept].filter((work) => work !== undefined),
    };
  }
}

function slotOf(layout: FlatLayout, parameter: string) {
  const slot = layout.byName.get(parameter);
  if (!slot)
    throw new DeepSpeedError('INTERNAL', `internal: no parameter ${parameter} in the layout`);
  return slot;
}

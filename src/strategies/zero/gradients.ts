import { DeepSpeedError } from '../../errors.ts';
import {
  type GradientOwner,
  isBoundary,
  type Location,
  type ReducedGradient,
  type SegmentWorkEvent,
} from '../../hooks/index.ts';
import type { NativeBuffer, NativeEngine, Region, Work } from '../../native/contract.ts';
import { type Bucket, bucketShards } from '../buckets.ts';
import type { FlatLayout, Shard } from '../../layout.ts';
import { planWindows, type WindowPlan } from './windows.ts';

const bytesPerElement = 4;

export interface ReducerOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  buckets: readonly Bucket[];
  rank: number;
  worldSize: number;
  segmentCount: number;
  lossScale: number;
  /** A bucket leaves while the next segment computes; false: all leave after the last backward. */
  overlap: boolean;
}

/** How gradients become what the optimizer reads: one of the three policies below. */
export interface GradientReducer extends GradientOwner {
  /** Called for every backward that was enqueued. */
  produced(event: SegmentWorkEvent): void;
  /** Bytes that the policy took, by what they are for. */
  readonly buffers: readonly NativeBuffer[];
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
 * Stages 0 and 1: the whole gradient is kept and micro batches add up in place; buckets are reduced once,
 * at the accumulation boundary. Stage 0 leaves the sum on every rank, stage 1 on the owner only.
 */
export class WholeGradient implements GradientReducer {
  readonly accumulatesLocally = true;
  readonly lossScale: number;
  readonly buffers: readonly NativeBuffer[];
  readonly #options: ReducerOptions;
  readonly #gradient: NativeBuffer;
  readonly #completion: Completion;
  readonly #scatter: boolean;
  #works: Work[] = [];

  constructor(options: ReducerOptions, scatter: boolean) {
    this.#options = options;
    this.#scatter = scatter;
    this.lossScale = options.lossScale;
    this.#completion = new Completion(options);
    this.#gradient = options.engine.allocate(options.layout.total * bytesPerElement, {
      category: 'gradients',
      shared: options.worldSize > 1,
      name: 'gradients',
    });
    this.buffers = [this.#gradient];
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
    if (!isBoundary(event.plan) || this.#options.worldSize === 1) return;
    this.#completion.after(event, (bucket, after) => this.#reduce(bucket, after));
  }

  #reduce(bucket: Bucket, after: Work): void {
    const { engine, layout, rank } = this.#options;
    const region = this.#region(bucket);
    if (!this.#scatter) {
      this.#works.push(engine.allReduce(region, 'sum', [after]));
      return;
    }
    const shards = bucketShards(bucket, layout);
    const own = shards[rank]!;
    const target =
      own.count === 0
        ? null
        : this.#region({ offset: bucket.offset + own.offset, count: own.count });
    this.#works.push(engine.reduceScatter(region, shards, target, {}, [after]));
  }

  reduced(): ReducedGradient {
    const { layout, rank } = this.#options;
    const after = this.#works;
    this.#works = [];
    const shard = this.#region(layout.shards[rank]!);
    if (this.#scatter) return { shard, after };
    return { shard, whole: this.#region({ offset: 0, count: layout.total }), after };
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

/**
 * Stage 2: every micro batch's buckets are reduced to their owners, who add them to their shard; the
 * windows are used again as soon as a reduction has ended.
 */
export class ShardedGradient implements GradientReducer {
  readonly accumulatesLocally = false;
  readonly lossScale: number;
  readonly buffers: readonly NativeBuffer[];
  readonly #options: ReducerOptions;
  readonly #windows: WindowPlan;
  readonly #window: NativeBuffer;
  readonly #shard: NativeBuffer;
  readonly #completion: Completion;
  readonly #bucketOf = new Map<string, Bucket>();
  /** The last reduction of each bucket: its memory is free when that has ended. */
  readonly #reductions: (Work | undefined)[];

  constructor(options: ReducerOptions) {
    this.#options = options;
    this.lossScale = options.lossScale;
    this.#completion = new Completion(options);
    // Without overlap all buckets wait for the end of backward, so none can share a place.
    this.#windows = planWindows(options.buckets, options.overlap ? 1 : options.segmentCount);
    this.#reductions = new Array(options.buckets.length).fill(undefined);
    for (const bucket of options.buckets) {
      for (const name of bucket.parameters) this.#bucketOf.set(name, bucket);
    }
    this.#window = options.engine.allocate(this.#windows.size * bytesPerElement, {
      category: 'window',
      shared: options.worldSize > 1,
      name: 'gradient windows',
    });
    this.#shard = options.engine.allocate(
      options.layout.shards[options.rank]!.count * bytesPerElement,
      { category: 'gradients', name: 'gradient shard' },
    );
    this.buffers = [this.#window, this.#shard];
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
      for (const other of this.#windows.overlaps[bucket.index]!) {
        const reduction = this.#reductions[other];
        if (reduction !== undefined) works.add(reduction);
      }
    }
    return [...works];
  }

  produced(event: SegmentWorkEvent): void {
    const { engine, layout, rank } = this.#options;
    this.#completion.after(event, (bucket, after) => {
      const shards = bucketShards(bucket, layout);
      const own = shards[rank]!;
      const shardStart = bucket.offset + own.offset - layout.shards[rank]!.offset;
      this.#reductions[bucket.index] = engine.reduceScatter(
        {
          buffer: this.#window,
          byteOffset: this.#windows.offsets[bucket.index]! * bytesPerElement,
          count: bucket.count,
          dtype: 'float32',
        },
        shards,
        own.count === 0
          ? null
          : {
              buffer: this.#shard,
              byteOffset: shardStart * bytesPerElement,
              count: own.count,
              dtype: 'float32',
            },
        { accumulate: event.plan.microBatch > 0 },
        [after],
      );
    });
  }

  reduced(): ReducedGradient {
    const { count } = this.#options.layout.shards[this.#options.rank]!;
    return {
      shard: { buffer: this.#shard, byteOffset: 0, count, dtype: 'float32' },
      after: this.#reductions.filter((work) => work !== undefined),
    };
  }
}

function slotOf(layout: FlatLayout, parameter: string) {
  const slot = layout.byName.get(parameter);
  if (!slot)
    throw new DeepSpeedError('INTERNAL', `internal: no parameter ${parameter} in the layout`);
  return slot;
}

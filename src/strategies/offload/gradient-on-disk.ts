import { alignUp, type Shard } from '../../layout.ts';
import type {
  NativeBuffer,
  NativeEngine,
  OptimizerRange,
  Region,
  SwapPiece,
  Work,
} from '../../native/contract.ts';
import type { GradientPart, GradientShard, SwappedGradient } from '../zero/gradient-shard.ts';
import { swapUnit } from './settings.ts';
import { rangesWithin } from './sub-groups.ts';
import { type Tail, tailByte } from './swap-space.ts';

export interface GradientOnDiskOptions {
  engine: NativeEngine;
  /** All of the shard. */
  tail: Tail;
  /** What buckets bring to this rank, by their index; their starts are multiples of `swapUnit`. */
  parts: readonly Shard[];
  /** Stretches of the shard that are parameters. */
  ranges: readonly OptimizerRange[];
}

/** Memory for as many sums as may be on their way to the disk. */
const stagingBuffers = 2;

/** Elements of each staging buffer, and how many there are, for what buckets bring to a rank. */
export function gradientStaging(parts: readonly Shard[]): { length: number; buffers: number } {
  return {
    length: Math.max(swapUnit, ...parts.map(({ count }) => alignUp(count, swapUnit))),
    buffers: Math.min(stagingBuffers, parts.length),
  };
}

const pairBytes = 16;

/**
 * The gradient of the shard on disk: a sum is written as soon as its bucket is reduced, while backward goes
 * on, and read again with its sub-group. The norm is taken on the way, bucket by bucket.
 */
export class GradientOnDisk implements GradientShard {
  readonly region = null;
  readonly swapped: SwappedGradient;
  readonly buffers: readonly NativeBuffer[];
  readonly #options: GradientOnDiskOptions;
  /** Of each buffer: the work after which it is free. */
  readonly #free: (Work | undefined)[];
  /** Of the parts that have a place now: which buffer. */
  readonly #staged = new Map<number, number>();
  #next = 0;
  /** [Σ x², non-finite] of every bucket, then of all. */
  readonly #norms: NativeBuffer;

  constructor(options: GradientOnDiskOptions) {
    this.#options = options;
    const { engine, tail, parts } = options;
    const { length, buffers } = gradientStaging(parts);
    this.buffers = Array.from({ length: buffers }, () =>
      engine.allocate(length * 4, { category: 'io', name: 'gradients on their way to disk' }),
    );
    this.#free = this.buffers.map(() => undefined);
    this.#norms = engine.allocate((parts.length + 1) * pairBytes, {
      category: 'optimizer',
      name: 'gradient norms by bucket',
    });
    this.swapped = { split: { tail }, norm: (after) => this.#total(after) };
  }

  place(part: GradientPart, accumulate: boolean): { region: Region; after: Work[] } {
    const { engine, tail } = this.#options;
    const index = this.#next;
    this.#next = (index + 1) % this.buffers.length;
    this.#staged.set(part.bucket, index);
    const free = this.#free[index];
    const region = { ...this.#staging(index), count: part.count };
    const after = free === undefined ? [] : [free];
    if (!accumulate) return { region, after };
    return { region, after: [engine.swapIn(tail.file, this.#pieces(part, index), after)] };
  }

  keep(part: GradientPart, written: Work, last: boolean): Work {
    const { engine, tail, ranges } = this.#options;
    const index = this.#staged.get(part.bucket)!;
    let ready = written;
    if (last) {
      const staging = this.#staging(index);
      const group = { offset: part.start, count: part.count };
      const regions = rangesWithin(ranges, group).map(({ offset, count }) => ({
        ...staging,
        byteOffset: offset * 4,
        count,
      }));
      ready = engine.squaredNorm(regions, this.#pair(part.bucket), [written]);
    }
    const kept = engine.swapOut(tail.file, this.#pieces(part, index), null, [ready]);
    this.#free[index] = kept;
    return kept;
  }

  #total(after: Work[]) {
    const { engine, parts } = this.#options;
    const region = (index: number): Region => ({
      ...this.#pair(index),
      count: 2,
      dtype: 'float64',
    });
    let ready = engine.fill(region(parts.length), 0, after);
    for (const [bucket, { count }] of parts.entries()) {
      if (count > 0) ready = engine.axpby(region(bucket), region(parts.length), 1, 1, [ready]);
    }
    return { pair: this.#pair(parts.length), ready };
  }

  #pair(index: number): { buffer: NativeBuffer; byteOffset: number } {
    return { buffer: this.#norms, byteOffset: index * pairBytes };
  }

  #staging(index: number): Region {
    const buffer = this.buffers[index]!;
    return { buffer, byteOffset: 0, count: buffer.bytes / 4, dtype: 'float32' };
  }

  #pieces({ start, count }: GradientPart, index: number): SwapPiece[] {
    const region = { ...this.#staging(index), count: alignUp(count, swapUnit) };
    return [{ fileOffset: tailByte(this.#options.tail, start), region }];
  }
}

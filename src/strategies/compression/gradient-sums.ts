import { elementCount } from '../../hooks/index.ts';
import type { FlatLayout } from '../../layout.ts';
import type {
  CompressedTensor,
  CompressorId,
  GradientCompression,
  NativeBuffer,
  NativeEngine,
  Region,
  Work,
} from '../../native/contract.ts';
import type { BeingSaved } from '../being-saved.ts';
import type { Bucket } from '../buckets.ts';
import type { LocalState } from '../local-state.ts';

const bytesPerElement = 4;

export interface CompressionRecipe {
  readonly compression: GradientCompression;
  /** Optimizer steps whose gradients are summed in full before compression begins. */
  readonly startStep: number;
  /** topk: what is sent at an optimizer step; the largest share is `compression`'s. */
  readonly shareAt?: (step: number) => number;
}

/**
 * The stage of the gradient pipeline that stands in the place of an all-reduce: sums of buckets, lossy, with
 * error feedback. What a rank has not sent lies where its element has its place in the flat layout, so that a
 * checkpoint does not depend on the buckets.
 */
export class GradientSums {
  readonly #engine: NativeEngine;
  readonly #beingSaved: BeingSaved;
  readonly #error: NativeBuffer;
  readonly #factors: NativeBuffer | null;
  /** By bucket; null where there is nothing to send. */
  readonly #compressors: readonly ({ id: CompressorId; factors: Region | null } | null)[];
  readonly #begins: () => boolean;
  readonly #share: () => number | undefined;
  readonly local: readonly LocalState[];

  constructor(
    engine: NativeEngine,
    {
      layout,
      buckets,
      beingSaved,
      step,
    }: {
      layout: FlatLayout;
      buckets: readonly Bucket[];
      beingSaved: BeingSaved;
      /** The optimizer step under way. */
      step: () => number;
    },
    { compression, startStep, shareAt }: CompressionRecipe,
  ) {
    this.#engine = engine;
    this.#beingSaved = beingSaved;
    this.#begins = () => step() >= startStep;
    this.#share = () => shareAt?.(step());
    const made = buckets.map((bucket) => {
      const tensors = tensorsOf(bucket, layout);
      if (tensors.length === 0) return null;
      return engine.createGradientCompressor(compression, tensors);
    });
    const vector = (name: string, count: number) =>
      engine.allocate(count * bytesPerElement, {
        category: 'optimizer',
        name: `compression: ${name}`,
      });
    this.#error = vector('error', layout.total);
    const total = made.reduce((sum, entry) => sum + (entry?.factors ?? 0), 0);
    this.#factors = total === 0 ? null : vector('factors', total);
    let begin = 0;
    this.#compressors = made.map((entry) => {
      if (entry === null) return null;
      const { id, factors: count } = entry;
      const byteOffset = begin * bytesPerElement;
      begin += count;
      const factors: Region | null =
        count === 0 ? null : { buffer: this.#factors!, byteOffset, count, dtype: 'float32' };
      return { id, factors };
    });
    this.local = [
      { name: 'gradient error', buffer: this.#error, count: layout.total },
      ...(this.#factors === null
        ? []
        : [
            {
              // Of tensors in the flat layout's order. Another rank has other factors.
              name: `power iteration (rank ${compression.rank})`,
              buffer: this.#factors,
              count: total,
              otherwise: 'rank 0' as const,
            },
          ]),
    ];
  }

  /** Whether gradients are compressed already. */
  get hasBegun(): boolean {
    return this.#begins();
  }

  /** `gradient`, the bucket's elements, becomes the sum over ranks. */
  sum({ index, offset }: Bucket, gradient: Region, after: Work[]): Work[] {
    const compressor = this.#compressors[index]!;
    if (compressor === null) return after;
    const error: Region = {
      ...gradient,
      buffer: this.#error,
      byteOffset: offset * bytesPerElement,
    };
    const { id, factors } = compressor;
    const ready = [...after, ...this.#beingSaved.local];
    return [this.#engine.compressedSum(id, gradient, error, factors, ready, this.#share())];
  }
}

/** Bytes of what `GradientSums` keeps. */
export function gradientSumsBytes(
  { type, rank = 0 }: GradientCompression,
  layout: FlatLayout,
  buckets: readonly Bucket[],
): number {
  // As addon/compress/power_sgd_compressor.cc: a matrix that its factors would not make smaller travels whole.
  const factors = buckets
    .flatMap((bucket) => tensorsOf(bucket, layout))
    .filter(({ rows, columns }) => type === 'powersgd' && rank * (rows + columns) < rows * columns)
    .reduce((sum, { columns }) => sum + rank * columns, 0);
  return (layout.total + factors) * bytesPerElement;
}

/** The parameters of a bucket as matrices: the first axis, and all others. Padding belongs to none. */
function tensorsOf(bucket: Bucket, layout: FlatLayout): CompressedTensor[] {
  return bucket.parameters
    .map((name) => layout.byName.get(name)!)
    .filter(({ count }) => count > 0)
    .map(({ offset, shape, count }) => {
      const [first = 1, ...rest] = shape;
      const rows = rest.length === 0 ? 1 : first;
      const columns = rest.length === 0 ? count : elementCount(rest);
      return { offset: offset - bucket.offset, rows, columns };
    });
}

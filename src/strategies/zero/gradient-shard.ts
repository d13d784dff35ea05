import type { NativeBuffer, NativeEngine, Region, Work } from '../../native/contract.ts';
import type { Split } from '../offload/walk.ts';

/** Elements of this rank's shard that one bucket brings. */
export interface GradientPart {
  /** Index of the bucket. */
  readonly bucket: number;
  /** In the shard. */
  readonly start: number;
  readonly count: number;
}

/** Where the sums of this rank's shard of the gradient are kept from their reduction to the optimizer. */
export interface GradientShard {
  /** Memory for a sum, the earlier one in it where it is added to, and the works to wait for. */
  place(part: GradientPart, accumulate: boolean): { region: Region; after: Work[] };
  /**
   * `written` puts the sum into its place.
   *
   * @param last it is the bucket's sum of the whole step
   * @returns the work after which it is kept
   */
  keep(part: GradientPart, written: Work, last: boolean): Work;
  /** All of it, fp32; null where it is on disk. */
  readonly region: Region | null;
  /** Where it is on disk: there, and its norm, for which `squaredNorm` stands otherwise. */
  readonly swapped?: SwappedGradient;
  readonly buffers: readonly NativeBuffer[];
}

export interface SwappedGradient {
  readonly split: Split;
  /**
   * Enqueues the sum of the parts' norms.
   *
   * @returns where they are, after which work
   */
  norm(after: Work[]): { pair: { buffer: NativeBuffer; byteOffset: number }; ready: Work };
}

/** In memory: reductions write or add in place. */
export class GradientInMemory implements GradientShard {
  readonly region: Region;
  readonly buffers: readonly NativeBuffer[];

  constructor(engine: NativeEngine, count: number) {
    const buffer = engine.allocate(count * 4, { category: 'gradients', name: 'gradient shard' });
    this.region = { buffer, byteOffset: 0, count, dtype: 'float32' };
    this.buffers = [buffer];
  }

  place({ start, count }: GradientPart): { region: Region; after: Work[] } {
    return { region: { ...this.region, byteOffset: start * 4, count }, after: [] };
  }

  keep(_: GradientPart, written: Work): Work {
    return written;
  }
}

import { createHash } from 'node:crypto';
import { DeepSpeedError } from '../errors.ts';

export interface SamplerOptions {
  /** Samples in the dataset. */
  length: number;
  /** Rows a rank takes for one micro batch. */
  microBatchSize: number;
  microBatches: number;
  rank: number;
  worldSize: number;
  seed: number;
  shuffle: boolean;
  /** Leave out the last global batch of an epoch when it is not full. */
  dropLast: boolean;
}

/**
 * Which samples a rank takes. An epoch is one permutation that every rank computes alike from (seed,
 * epoch); it is cut into global batches of microBatchSize × microBatches × worldSize samples. Row j of
 * micro batch m of rank r is sample (m · worldSize + r) · microBatchSize + j of its global batch.
 *
 * The last global batch of an epoch may be smaller: its rows are dealt out in the same order, so the
 * first ranks and micro batches are full and the others get fewer rows or none. Every sample is seen
 * exactly once an epoch, at any world size.
 */
export class DistributedSampler {
  readonly #options: SamplerOptions;
  readonly globalBatchSize: number;
  readonly stepsPerEpoch: number;

  constructor(options: SamplerOptions) {
    this.#options = options;
    const { length, microBatchSize, microBatches, worldSize, dropLast } = options;
    this.globalBatchSize = microBatchSize * microBatches * worldSize;
    if (length === 0) {
      throw new DeepSpeedError('DATASET_EMPTY', 'the training dataset has no samples');
    }
    if (length < this.globalBatchSize) {
      throw new DeepSpeedError(
        'DATASET_TOO_SMALL',
        `the training dataset has ${length} samples, one global batch takes ${this.globalBatchSize} ` +
          `(micro batch ${microBatchSize} x accumulation ${microBatches} x ranks ${worldSize})`,
        { data: { length, globalBatchSize: this.globalBatchSize } },
      );
    }
    const batches = length / this.globalBatchSize;
    this.stepsPerEpoch = dropLast ? Math.floor(batches) : Math.ceil(batches);
  }

  /**
   * Indices of this rank for one global batch: a list for every micro batch, possibly empty.
   *
   * @param start samples of the epoch that come before it
   */
  batch(epoch: number, start: number): number[][] {
    const { microBatchSize, microBatches, worldSize, rank, length } = this.#options;
    const order = this.#order(epoch);
    return Array.from({ length: microBatches }, (_, microBatch) => {
      const first = start + (microBatch * worldSize + rank) * microBatchSize;
      const last = Math.min(first + microBatchSize, length, start + this.globalBatchSize);
      return first < last ? Array.from(order.subarray(first, last)) : [];
    });
  }

  /** Whether after `samples` of an epoch no global batch is left. */
  isOver(samples: number): boolean {
    const { length, dropLast } = this.#options;
    return samples + (dropLast ? this.globalBatchSize : 1) > length;
  }

  #cached: { epoch: number; order: Uint32Array } | undefined;

  #order(epoch: number): Uint32Array {
    if (this.#cached?.epoch === epoch) return this.#cached.order;
    const { length, seed, shuffle } = this.#options;
    const order = Uint32Array.from({ length }, (_, index) => index);
    if (shuffle) permute(order, seed, epoch);
    this.#cached = { epoch, order };
    return order;
  }
}

/** Fisher-Yates with a counter-based generator: the same on every rank, platform and resume. */
function permute(order: Uint32Array, seed: number, epoch: number): void {
  const random = uniformIntegers(`${seed}/${epoch}`);
  for (let last = order.length - 1; last > 0; last -= 1) {
    const other = random(last + 1);
    [order[last], order[other]] = [order[other]!, order[last]!];
  }
}

/** Unbiased integers below a bound, from SHA-256 in counter mode, 8 draws a block. */
function uniformIntegers(key: string): (bound: number) => number {
  let block = Buffer.alloc(0);
  let position = 0;
  let counter = 0;
  const draw = () => {
    if (position === block.length) {
      block = createHash('sha256').update(`${key}/${counter++}`).digest();
      position = 0;
    }
    const value = block.readUInt32LE(position);
    position += 4;
    return value;
  };
  return (bound) => {
    const limit = 2 ** 32 - (2 ** 32 % bound);
    for (;;) {
      const value = draw();
      if (value < limit) return value % bound;
    }
  };
}

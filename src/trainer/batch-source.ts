import { DeepSpeedError } from '../errors.ts';
import { type AnySample, byIndex, type Dataset, fetchSamples, type MapDataset } from './dataset.ts';
import { DistributedSampler, type SamplerOptions } from './sampler.ts';

/** One rank's samples of one micro batch; empty when the last global batch runs out. */
export interface MicroBatch {
  samples: AnySample[];
  indices: number[];
}

/** Gives a rank its micro batches, epoch by epoch. */
export interface BatchSource {
  /** Undefined for a stream, whose end nobody knows. */
  readonly stepsPerEpoch: number | undefined;
  /** Samples of a step, over all ranks. */
  readonly globalBatchSize: number;
  /** @param skip samples of this epoch that were taken before, in global batches of whatever size */
  epoch(epoch: number, skip: number): AsyncGenerator<MicroBatch[]>;
  /** Whether after `samples` of an epoch no batch is left; of a stream nobody knows. */
  isOver(samples: number): boolean;
}

export type BatchSourceOptions = Omit<SamplerOptions, 'length'>;

export function createBatchSource(dataset: Dataset, options: BatchSourceOptions): BatchSource {
  const map = byIndex(dataset);
  if (map) return mapSource(map, options);
  const stream = dataset as AsyncIterable<AnySample> & Iterable<AnySample>;
  if (typeof stream === 'object' && (stream[Symbol.asyncIterator] || stream[Symbol.iterator])) {
    return streamSource('next' in stream ? new SinglePass(stream) : stream, options);
  }
  throw new DeepSpeedError(
    'DATASET_INVALID',
    'a dataset is an array, { length, get(index) }, or an (async) iterable of samples',
  );
}

function mapSource(map: MapDataset, options: BatchSourceOptions): BatchSource {
  const sampler = new DistributedSampler({ ...options, length: map.length });
  return {
    stepsPerEpoch: sampler.stepsPerEpoch,
    globalBatchSize: sampler.globalBatchSize,
    async *epoch(epoch, skip) {
      for (let start = skip; !sampler.isOver(start); start += sampler.globalBatchSize) {
        const parts: MicroBatch[] = [];
        for (const indices of sampler.batch(epoch, start)) {
          parts.push({ samples: await fetchSamples(map, indices), indices });
        }
        yield parts;
      }
    },
    isOver: (samples) => sampler.isOver(samples),
  };
}

/**
 * A stream is read whole by every rank, which keeps its own rows: sample i goes where the sampler would
 * put index i. It is not shuffled.
 */
function streamSource(
  stream: AsyncIterable<AnySample> | Iterable<AnySample>,
  options: BatchSourceOptions,
): BatchSource {
  const { microBatchSize, microBatches, rank, worldSize, dropLast } = options;
  const globalBatchSize = microBatchSize * microBatches * worldSize;
  const empty = () =>
    Array.from({ length: microBatches }, (): MicroBatch => ({ samples: [], indices: [] }));
  return {
    stepsPerEpoch: undefined,
    globalBatchSize,
    async *epoch(_epoch, skip) {
      let parts = empty();
      let index = 0;
      for await (const sample of stream) {
        const place = (index - skip) % globalBatchSize;
        const slot = Math.floor(place / microBatchSize);
        if (index >= skip && slot % worldSize === rank) {
          const part = parts[Math.floor(slot / worldSize)]!;
          part.samples.push(sample);
          part.indices.push(index);
        }
        index += 1;
        if (index <= skip || place + 1 < globalBatchSize) continue;
        yield parts;
        parts = empty();
      }
      if (index === 0) throw new DeepSpeedError('DATASET_EMPTY', 'the dataset has no samples');
      if (index < globalBatchSize) {
        throw new DeepSpeedError(
          'DATASET_TOO_SMALL',
          `the training dataset has ${index} samples, one global batch takes ${globalBatchSize}`,
        );
      }
      const rest = Math.max(0, index - skip) % globalBatchSize;
      if (rest > 0 && !dropLast) yield parts;
    },
    isOver: () => false,
  };
}

/**
 * A generator, which can be read only once. Set-up looks at the first batch before training reads it:
 * what the first reading took, the second gets again.
 */
class SinglePass implements AsyncIterable<AnySample> {
  readonly #source: AsyncIterator<AnySample> | Iterator<AnySample>;
  #seen: AnySample[] = [];
  #readings = 0;

  constructor(stream: AsyncIterable<AnySample> | Iterable<AnySample>) {
    this.#source = stream as unknown as AsyncIterator<AnySample> | Iterator<AnySample>;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<AnySample> {
    this.#readings += 1;
    const looking = this.#readings === 1;
    if (this.#readings > 2) {
      throw new DeepSpeedError(
        'DATASET_INVALID',
        'the dataset is a generator, which can be read once, and training goes on to another epoch',
        {
          fix: 'Give an object whose [Symbol.asyncIterator]() starts anew, or { length, get(index) }; or lower maxSteps.',
        },
      );
    }
    const seen = this.#seen;
    this.#seen = [];
    yield* seen;
    try {
      for (;;) {
        const { done, value } = await this.#source.next();
        if (done) return;
        if (looking) this.#seen.push(value);
        yield value;
      }
    } finally {
      if (!looking) await this.#source.return?.();
    }
  }
}

import { inspect } from 'node:util';
import { DeepSpeedError } from '../errors.ts';
import type { AnySample, Sample, TensorSample } from '../hosts/onnx/sample.ts';

export type { AnySample, Sample, TensorSample };

/** A dataset with random access. `get` may be asynchronous. */
export interface MapDataset<S extends AnySample = AnySample> {
  readonly length: number;
  get(index: number): S | Promise<S>;
}

/**
 * Samples by index, of which an array is the simplest, or a stream of samples in one order. Samples by
 * index are shuffled every epoch; evaluation and prediction need them.
 */
export type Dataset =
  | MapDataset
  | readonly AnySample[]
  | AsyncIterable<AnySample>
  | Iterable<AnySample>;

/** The dataset by index; undefined for a stream. */
export function byIndex(dataset: Dataset): MapDataset | undefined {
  if (Array.isArray(dataset)) {
    const samples: readonly AnySample[] = dataset;
    return { length: samples.length, get: (index) => samples[index]! };
  }
  const { get, length } = dataset as Partial<MapDataset>;
  return typeof get === 'function' && typeof length === 'number'
    ? (dataset as MapDataset)
    : undefined;
}

/**
 * Cuts one long token stream into samples of `blockSize` tokens: the usual pre-training dataset. The
 * rest at the end that does not fill a block is left out.
 */
export function tokenBlocks(tokens: ArrayLike<number>, blockSize: number): MapDataset<Sample> {
  if (!Number.isInteger(blockSize) || blockSize < 2) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `blockSize is ${blockSize}; it must be a whole number of at least 2`,
      { fix: 'Give tokenBlocks the number of tokens that a sample shall have.' },
    );
  }
  const wrong = Array.prototype.findIndex.call(tokens, (token) => !Number.isInteger(token));
  if (wrong >= 0) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `tokens[${wrong}] is ${inspect(tokens[wrong])}, which is no token id`,
      { fix: 'Give tokenBlocks what tokenizer.encode(text) returns.' },
    );
  }
  const source = Int32Array.from(tokens);
  return {
    length: Math.floor(source.length / blockSize),
    get(index) {
      return { input_ids: source.subarray(index * blockSize, (index + 1) * blockSize) };
    },
  };
}

/** Reads `indices` of a dataset, in order. */
export async function fetchSamples(
  dataset: MapDataset,
  indices: readonly number[],
): Promise<AnySample[]> {
  const samples: AnySample[] = [];
  for (const index of indices) samples.push(await dataset.get(index));
  return samples;
}

/**
 * Entropy of the token frequencies, in nats per token: the loss of a model that knows how often each
 * token occurs and nothing else. A language model must get below it.
 */
export function unigramEntropy(tokens: ArrayLike<number>): number {
  const counts = new Map<number, number>();
  for (let index = 0; index < tokens.length; index += 1) {
    counts.set(tokens[index]!, (counts.get(tokens[index]!) ?? 0) + 1);
  }
  let entropy = 0;
  for (const count of counts.values()) {
    const share = count / tokens.length;
    entropy -= share * Math.log(share);
  }
  return entropy;
}

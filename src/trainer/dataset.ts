import { DeepSpeedError } from '../errors.ts';
import type { Sample } from '../hosts/onnx/sample.ts';

export type { Sample };

/** A dataset with random access. `get` may be asynchronous. */
export interface MapDataset {
  readonly length: number;
  get(index: number): Sample | Promise<Sample>;
}

/** Samples by index, or in one order. Evaluation and prediction need them by index. */
export type Dataset = MapDataset | AsyncIterable<Sample> | Iterable<Sample>;

export function isMapDataset(dataset: Dataset): dataset is MapDataset {
  const candidate = dataset as Partial<MapDataset>;
  return typeof candidate.get === 'function' && typeof candidate.length === 'number';
}

/**
 * Cuts one long token stream into samples of `blockSize` tokens: the usual pre-training dataset. The
 * rest at the end that does not fill a block is left out.
 */
export function tokenBlocks(tokens: ArrayLike<number>, blockSize: number): MapDataset {
  if (!Number.isInteger(blockSize) || blockSize < 2) {
    throw new DeepSpeedError('DATASET_INVALID', `blockSize is ${blockSize}; it must be at least 2`);
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
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const index of indices) samples.push(checkSample(await dataset.get(index), index));
  return samples;
}

/** Throws, naming the sample, for what a model cannot take. */
export function checkSample(sample: Sample, index: number): Sample {
  const length = sample?.input_ids?.length;
  if (typeof length !== 'number' || length === 0) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `sample ${index} has no input_ids: a sample is { input_ids: number[], labels?, attention_mask? }`,
      { data: { index } },
    );
  }
  for (const key of ['labels', 'attention_mask'] as const) {
    const other = sample[key];
    if (other && other.length !== length) {
      throw new DeepSpeedError(
        'DATASET_INVALID',
        `sample ${index}: ${key} has ${other.length} entries, input_ids ${length}`,
        { data: { index } },
      );
    }
  }
  return sample;
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

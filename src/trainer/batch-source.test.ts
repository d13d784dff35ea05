import { expect, it } from 'vitest';
import { type BatchSource, createBatchSource } from './batch-source.ts';

const options = {
  microBatchSize: 2,
  microBatches: 1,
  rank: 0,
  worldSize: 1,
  seed: 0,
  shuffle: false,
  dropLast: false,
};

let closed = 0;
async function* generate() {
  try {
    for (let token = 0; token < 5; token += 1) yield { input_ids: [token, token] };
  } finally {
    closed += 1;
  }
}

async function tokens(source: BatchSource, epoch: number, take = Number.POSITIVE_INFINITY) {
  const batches: number[][] = [];
  for await (const [part] of source.epoch(epoch, 0)) {
    batches.push(part!.samples.map((sample) => (sample as { input_ids: number[] }).input_ids[0]!));
    if (batches.length === take) break;
  }
  return batches;
}

it('gives training all samples of a generator whose first batch set-up has looked at', async () => {
  closed = 0;
  const source = createBatchSource(generate(), options);
  expect(await tokens(source, 0, 1)).toEqual([[0, 1]]);
  expect(closed).toBe(0);
  expect(await tokens(source, 0)).toEqual([[0, 1], [2, 3], [4]]);
  expect(closed).toBe(1);
  await expect(tokens(source, 1)).rejects.toMatchObject({ code: 'DATASET_INVALID' });
});

it('a stream goes on after the samples seen before, whatever the size of their batches', async () => {
  const stream = { [Symbol.asyncIterator]: generate };
  const samplesFrom = async (skip: number, more: Partial<typeof options> = {}) => {
    const batches: number[][] = [];
    for await (const parts of createBatchSource(stream, { ...options, ...more }).epoch(0, skip)) {
      batches.push(parts.flatMap(({ indices }) => indices));
    }
    return batches;
  };
  expect(await samplesFrom(1)).toEqual([
    [1, 2],
    [3, 4],
  ]);
  expect(await samplesFrom(2)).toEqual([[2, 3], [4]]);
  expect(await samplesFrom(2, { dropLast: true })).toEqual([[2, 3]]);
  expect(await samplesFrom(3, { microBatchSize: 1, microBatches: 2 })).toEqual([[3, 4]]);
  expect(await samplesFrom(1, { microBatchSize: 1, worldSize: 2, rank: 1 })).toEqual([[2], [4]]);
  for (const skip of [5, 6]) expect(await samplesFrom(skip)).toEqual([]);
});

it('reads an iterable anew for every epoch', async () => {
  const source = createBatchSource({ [Symbol.asyncIterator]: generate }, options);
  for (const epoch of [0, 0, 1]) {
    expect(await tokens(source, epoch)).toEqual([[0, 1], [2, 3], [4]]);
  }
});

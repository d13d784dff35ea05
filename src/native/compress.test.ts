/** The compressed all-reduce against its formulas in plain TypeScript, bit for bit. */
import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { CompressTask, CompressResult } from './compress-rank.fixture.ts';
import type { Region } from './contract.ts';
import { loadAddon } from './load.ts';
import { rankThreads } from './rank-testing.ts';

interface State {
  worker: Float32Array;
  /** By element of the whole vector; a rank uses those that it serves. */
  server: Float32Array;
}

const sign = (value: number) => (value >= 0 ? 1 : -1);

/** Σ x² in sixteen stripes, as addon/compress/sign_kernels.h fixes the order. */
function rootMeanSquare(values: Float32Array): number {
  const stripes = new Array<number>(16).fill(0);
  for (const [i, value] of values.entries()) stripes[i % 16]! += value * value;
  return Math.fround(Math.sqrt(stripes.reduce((sum, stripe) => sum + stripe, 0) / values.length));
}

/** Takes ±scale off every value; returns what was taken. */
function compress(error: Float32Array): Float32Array {
  const scale = rootMeanSquare(error);
  const sent = error.map((value) => sign(value) * scale);
  for (const [i, value] of sent.entries()) error[i] = error[i]! - value;
  return sent;
}

function reference(xs: Float32Array[], tensors: number[], states: State[]): Float32Array {
  const result = new Float32Array(xs[0]!.length);
  let start = 0;
  for (const length of tensors) {
    for (let done = 0; done < length; done += 1024) {
      const from = start + done;
      const to = from + Math.min(1024, length - done);
      const arrived = xs.map((x, rank) => {
        const error = states[rank]!.worker.subarray(from, to);
        for (const [i, value] of x.subarray(from, to).entries()) error[i] = error[i]! + value;
        return compress(error);
      });
      // Whoever serves the block: the reference keeps one server error for all.
      const error = states[0]!.server.subarray(from, to);
      for (let i = 0; i < error.length; i += 1) {
        let sum = 0;
        for (const sent of arrived) sum = Math.fround(sum + sent[i]!);
        error[i] = error[i]! + Math.fround(sum / xs.length);
      }
      result.set(compress(error), from);
    }
    start += length;
  }
  return result;
}

/** Repeatable values with zeros of both signs among them. */
function values(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 1;
  return Float32Array.from({ length: count }, (_, i) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    if (i % 7 === 0) return i % 2 === 0 ? 0 : -0;
    return state / 2 ** 31 - 1;
  });
}

function exchange(task: Omit<CompressTask, 'key' | 'rank' | 'xs'>, xs: Float32Array[][]) {
  const key = randomUUID();
  const fixture = new URL('./compress-rank.fixture.ts', import.meta.url);
  return rankThreads<CompressTask, CompressResult>(
    fixture,
    xs.map((own, rank) => ({ ...task, key, rank, xs: own })),
  );
}

test.each([1, 2, 3, 5, 8])('%i ranks: three rounds equal the formulas', async (worldSize) => {
  const tensors = [1, 1500, 33, 17, 2048];
  const count = tensors.reduce((sum, length) => sum + length, 0);
  const xs = Array.from({ length: worldSize }, (_, rank) =>
    [0, 1, 2].map((round) => values(count, 10 * rank + round + 1)),
  );
  const states = xs.map(() => ({
    worker: new Float32Array(count),
    server: new Float32Array(count),
  }));
  const expected = [0, 1, 2].map((round) =>
    reference(
      xs.map((own) => own[round]!),
      tensors,
      states,
    ),
  );
  const ranks = await exchange({ worldSize, tensors }, xs);
  const served = ranks.reduce((sum, rank) => sum + rank.served, 0);
  expect(served).toBe(count);
  for (const [rank, { results, worker }] of ranks.entries()) {
    expect(results).toEqual(expected);
    expect(worker).toEqual(states[rank]!.worker);
  }
});

test('a value that is not finite: the same error on all ranks, naming the rank', async () => {
  const xs = [0, 1, 2].map((rank) => [values(100, rank + 1)]);
  xs[1]![0]![42] = Number.NaN;
  for (const { error } of await exchange({ worldSize: 3, tensors: [100] }, xs)) {
    expect(error).toMatch(/^NON_FINITE .*not finite on rank 1/);
  }
});

test('regions that are no fp32, or not as long as the tensors, and a vector of nothing are refused', () => {
  const communicator = loadAddon().createCommunicator({ backend: 'solo' });
  const engine = loadAddon().createEngine({ communicator, threads: 1 });
  const region = (count: number, dtype: Region['dtype'] = 'float32') => ({
    buffer: engine.allocate(4 * count, { category: 'optimizer' }),
    byteOffset: 0,
    count,
    dtype,
  });
  const { id, served } = engine.createCompressor([100]);
  expect(served).toBe(100);
  const sound = region(100);
  for (const [x, worker, server, message] of [
    [region(100, 'int32' as never), sound, sound, 'x must be float32'],
    [region(100, 'bfloat16'), sound, sound, 'x must be float32'],
    [sound, region(100, 'float16'), sound, 'workerError must be float32'],
    [sound, sound, region(100, 'int32' as never), 'serverError must be float32'],
    [region(99), sound, sound, 'x has 99 elements, must have 100'],
    [sound, sound, null, 'serverError has 0 elements, must have 100'],
  ] as const)
    expect(() => engine.compressedAllReduce(id, x, worker, server)).toThrow(message);
  expect(() => engine.compressedAllReduce(id + 1, sound, sound, sound)).toThrow('no compressor');
  for (const tensors of [[], [100, 0]])
    expect(() => engine.createCompressor(tensors)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  engine.dispose();
  communicator.dispose();
});

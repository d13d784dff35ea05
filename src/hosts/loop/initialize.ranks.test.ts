/** Hand-written loops over ranks, with compressed gradients and 16 bits on the way. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { runRanks } from '../../trainer/testing/run-ranks.ts';
import { type LoopTask, targetOf } from './testing/loop.fixture.ts';

const fixture = new URL('./testing/loop.fixture.ts', import.meta.url);
const rate = 0.1;
const optimizer = { type: 'SGD', params: { lr: rate } };
const worldSize = 2;

/** Where two ranks end, and that they end at the same place. */
async function end(
  deepspeed: object,
  steps: number,
  more: Pick<LoopTask, 'folder'> = {},
): Promise<Float32Array> {
  const task = { deepspeed: { optimizer, ...deepspeed }, steps, ...more };
  const [first, second] = await runRanks<LoopTask, Float32Array>(fixture, worldSize, task);
  expect(second).toEqual(first);
  return first!;
}

const mean = targetOf(0).map((value, i) => (value + targetOf(1)[i]!) / worldSize);
const distance = (a: Float32Array, b: Float32Array) =>
  Math.hypot(...a.map((value, i) => value - b[i]!));

/** From 0, descent comes (1 − rate)^steps of the way short of the mean of the targets. */
const after = (steps: number) => mean.map((value) => value * (1 - (1 - rate) ** steps));

// Gradients, their sum, its mean, the rate, the update: eight roundings of 2⁻²⁴ a step at most.
const rounding = (steps: number) => 8 * steps * 2 ** -24 * Math.hypot(...mean);

it.each([
  ['whole', {}],
  ['stage 1', { zero_optimization: { stage: 1 } }],
  ['topk of everything', { compression: { type: 'topk', ratio: 1 } }],
])('%s: ranks meet at the mean of their targets', async (_, keys) => {
  expect(distance(await end(keys, 20), after(20))).toBeLessThan(rounding(20));
});

it('PowerSGD with as many columns as the matrix has is the whole gradient, but for its projections', async () => {
  const found = await end({ compression: { type: 'powersgd', rank: 4 } }, 20);
  expect(distance(found, after(20))).toBeLessThan(1e-4);
});

it.each([
  ['int8', { compression: { type: 'int8' } }],
  ['topk', { compression: { type: 'topk', ratio: 0.25 } }],
  ['powersgd', { compression: { type: 'powersgd', rank: 1 } }],
  ['16 bits', { communication_data_type: 'bf16' }],
])('%s: what is lost on the way comes later', async (_, keys) => {
  const [short, long] = [await end(keys, 4), await end(keys, 80)];
  // Lossy: not where whole gradients lead.
  expect(distance(short, after(4))).toBeGreaterThan(rounding(4));
  expect(distance(long, mean)).toBeLessThan(0.1 * Math.hypot(...mean));
});

it.each([
  ['whole', {}],
  ['stage 1', { zero_optimization: { stage: 1 } }],
  ['stage 2', { zero_optimization: { stage: 2 } }],
  ['stage 2, all-reduced', { zero_optimization: { stage: 2, reduce_scatter: false } }],
  ['int8', { compression: { type: 'int8' } }],
  ['powersgd', { compression: { type: 'powersgd', rank: 1 } }],
  ['16 bits', { communication_data_type: 'bf16' }],
  ['weights of 16 bits', { bf16: { enabled: true } }],
  ['OneBitAdam', { optimizer: { type: 'OneBitAdam', params: { lr: rate, freeze_step: 1 } } }],
])('%s: gradients on their way are given up for a checkpoint that is good', async (_, keys) => {
  const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-loop-'));
  const broken = join(folder, 'broken', 'global_step0');
  mkdirSync(broken, { recursive: true });
  writeFileSync(join(broken, 'manifest.json'), '{}');
  writeFileSync(join(folder, 'broken', 'latest'), 'global_step0\n');
  expect(await end(keys, 3, { folder })).toEqual(await end(keys, 3));
  rmSync(folder, { recursive: true });
});

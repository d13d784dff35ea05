/** TensorFlow.js with a DeepSpeed config: how the engine works changes, what is learnt does not. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Cases, difference, overRanks } from './tfjs.run.ts';

const tolerance = 3e-5;
const stages = [0, 1, 2];
const zero = (stage: number, more: object = {}) => ({ zero_optimization: { stage }, ...more });
const optimizer = (type: string, params: object) => ({ optimizer: { type, params } });
const scheduler = {
  scheduler: { type: 'WarmupLR', params: { warmup_max_lr: 0.1, warmup_num_steps: 4 } },
};
const compression = (keys: object) => ({ compression: keys });

const cases = new Cases({
  plain: { name: 'plain' },
  adam: { name: 'adam' },
  ownOptimizer: { name: 'ownOptimizer' },
  ...Object.fromEntries(
    stages.flatMap((stage) => [
      [`stage${stage}`, { name: 'adam', deepspeed: zero(stage) }],
      [
        `split${stage}`,
        { name: 'adam', deepspeed: zero(stage, { gradient_accumulation_steps: 3 }) },
      ],
    ]),
  ),
  clipped: { name: 'plain', deepspeed: { gradient_clipping: 0.05 } },
  bf16: { name: 'plain', deepspeed: { bf16: { enabled: true } } },
  wire16: { name: 'plain', deepspeed: { communication_data_type: 'bf16' } },
  scheduled: { name: 'plain', deepspeed: scheduler },
  int8: { name: 'plain', deepspeed: compression({ type: 'int8' }) },
  // All of the gradient: the sum is whole, but for rounding.
  topkOfAll: { name: 'plain', deepspeed: compression({ type: 'topk', ratio: 1 }) },
  topk: { name: 'long', deepspeed: compression({ type: 'topk', ratio: 0.2 }) },
  powersgd: { name: 'long', deepspeed: compression({ type: 'powersgd', rank: 1 }) },
  long: { name: 'long' },
  compressedLast: { name: 'plain', deepspeed: compression({ type: 'topk', start_step: 5 }) },
  compressedNever: { name: 'plain', deepspeed: compression({ type: 'topk', start_step: 6 }) },
  compressedOwn: { name: 'ownOptimizer', deepspeed: compression({ type: 'topk', ratio: 1 }) },
  sumLoss: { name: 'sumLoss', deepspeed: compression({ type: 'topk' }) },
  sameSgd: { name: 'plain', deepspeed: optimizer('SGD', { lr: 0.1 }) },
  sameAdam: { name: 'adam', deepspeed: optimizer('Adam', { lr: 0.01, eps: 1e-7 }) },
  otherRate: { name: 'plain', deepspeed: optimizer('SGD', { lr: 0.2 }) },
  otherKind: { name: 'plain', deepspeed: optimizer('AdamW', { lr: 0.1 }) },
  uncorrected: {
    name: 'adam',
    deepspeed: optimizer('Adam', { lr: 0.01, eps: 1e-7, bias_correction: false }),
  },
  oneBit: { name: 'adam', deepspeed: optimizer('OneBitAdam', { lr: 0.01 }) },
  scheduledTwice: { name: 'rateOfRank0Alone', deepspeed: scheduler },
  smallBatch: { name: 'plain', deepspeed: { train_batch_size: 4 } },
  stage3: { name: 'plain', deepspeed: zero(3) },
  dropped: {
    name: 'plain',
    deepspeed: { progressive_layer_drop: { enabled: true, theta: 0.5, gamma: 0.001 } },
  },
  sparse: { name: 'plain', deepspeed: { sparse_attention: { mode: 'fixed' } } },
  splitNorm: { name: 'batchNorm', deepspeed: { gradient_accumulation_steps: 2 } },
  ownMetric: { name: 'ownMetric', deepspeed: { tfjs: { verify_first_batch: false } } },
  ownSharded: { name: 'ownOptimizer', deepspeed: zero(1) },
  ownLater: {
    name: 'ownOptimizer',
    deepspeed: compression({ type: 'topk', start_step: 2 }),
  },
});

beforeAll(async () => {
  for (const ranks of [1, 2, 3]) await cases.launch(ranks);
}, 300_000);
afterAll(() => cases.remove());

/** How far a case on some ranks is from one on a single rank. */
const from = (one: string, ranks: number, many = one, floor?: number) =>
  difference(cases.value(1, one), cases.value(ranks, many), floor);

it.each(stages)('stage %i trains the same', (stage) => {
  for (const ranks of [2, 3]) expect(from('adam', ranks, `stage${stage}`)).toBeLessThan(tolerance);
});

it.each(stages)("accumulation splits the script's batch (stage %i)", (stage) => {
  expect(from('adam', 2, `split${stage}`)).toBeLessThan(tolerance);
});

it('the launcher says the same as withStrategy', async () => {
  const config = Buffer.from(JSON.stringify(zero(2, { gradient_accumulation_steps: 3 })));
  const flags = ['--deepspeed', config.toString('base64')];
  const run = await overRanks(2, 'rules.ts', ['adam', cases.folder], { flags });
  expect(difference(cases.value(2, 'split2'), run.results())).toBe(0);
});

it('clips by the norm of the whole batch', () => {
  expect(from('clipped', 2)).toBeLessThan(tolerance);
  expect(from('plain', 2, 'clipped')).toBeGreaterThan(0.01);
});

const wordsOf = (weights: number[][]) =>
  new Uint32Array(Float32Array.from(weights.flat()).buffer).map((word) => word & 0xffff);

it('bf16: weights are those of 16 bits, close to the others', () => {
  const { weights } = cases.value(2, 'bf16') as { weights: number[][] };
  expect(wordsOf(weights).every((low) => low === 0)).toBe(true);
  expect(from('plain', 2, 'bf16', 1)).toBeLessThan(0.02);
});

it('communication_data_type: gradients travel in 16 bits, weights keep 32', () => {
  const { weights } = cases.value(2, 'wire16') as { weights: number[][] };
  expect(wordsOf(weights).some((low) => low !== 0)).toBe(true);
  // Each gradient is rounded to 8 bits by its rank and once more as a sum.
  expect(from('plain', 2, 'wire16')).toBeGreaterThan(tolerance);
  expect(from('plain', 2, 'wire16', 1)).toBeLessThan(2 ** -7);
});

it('a scheduler sets the rate', () => {
  expect(from('scheduled', 2)).toBeLessThan(tolerance);
  expect(from('plain', 2, 'scheduled')).toBeGreaterThan(0.01);
});

describe('compression', () => {
  it('int8 stays within its steps of whole gradients', () => {
    // Half a step of 1/127 of a block's largest element, twice; what is left over comes with the next sum.
    expect(from('plain', 2, 'int8', 1)).toBeLessThan(2 / 127);
    expect(from('plain', 2, 'int8')).toBeGreaterThan(tolerance);
  });

  it('topk of everything is the whole gradient', () => {
    expect(from('plain', 2, 'topkOfAll')).toBeLessThan(tolerance);
    expect(from('plain', 3, 'topkOfAll')).toBeLessThan(tolerance);
  });

  it.each(['topk', 'powersgd'] as const)('%s sends other gradients, and learns', (name) => {
    const loss = (which: string) =>
      (cases.value(2, which) as { history: { loss: number[] } }).history.loss;
    const [whole, lossy] = [loss('long'), loss(name)];
    expect(difference(whole, lossy)).toBeGreaterThan(tolerance);
    const gain = (losses: number[]) => losses[0]! - losses.at(-1)!;
    expect(gain(lossy)).toBeGreaterThan(0.5 * gain(whole));
  });

  it('begins with start_step', () => {
    // Three epochs of two batches: what the sixth step does shows in the weights only.
    const of = (ranks: number, name: string) =>
      cases.value(ranks, name) as { history: unknown; weights: unknown };
    const [whole, last] = [of(1, 'plain'), of(2, 'compressedLast')];
    expect(difference(whole.history, last.history)).toBeLessThan(tolerance);
    expect(difference(whole.weights, last.weights)).toBeGreaterThan(tolerance);
    expect(from('plain', 2, 'compressedNever')).toBeLessThan(tolerance);
  });

  it("averages for an optimizer of the script's own, too", () => {
    expect(from('ownOptimizer', 2, 'compressedOwn')).toBeLessThan(tolerance);
  });

  it('is nothing on one rank', () => {
    expect(difference(cases.value(1, 'long'), cases.value(1, 'powersgd'))).toBe(0);
  });
});

it('repeats the compiled optimizer', () => {
  expect(difference(cases.value(1, 'plain'), cases.value(1, 'sameSgd'))).toBe(0);
  expect(difference(cases.value(1, 'adam'), cases.value(1, 'sameAdam'))).toBe(0);
});

it.each([
  ['otherRate', 'lr 0.2 in the config, 0.1 in the script'],
  ['otherKind', 'kind adamw in the config, sgd in the script'],
  ['uncorrected', 'biasCorrection false in the config, true in the script'],
  ['oneBit', /OneBitAdam is not the compiled optimizer \(Adam\): .* one bit/],
  ['smallBatch', 'batches of 6 rows, and the config says train_batch_size 4'],
  ['stage3', 'needs a host with "gatheredParameters"'],
  ['dropped', 'progressive_layer_drop'],
  ['sparse', 'sparse_attention'],
  ['splitNorm', 'gradient_accumulation_steps 2 would normalise each part of a batch by itself'],
  ['scheduledTwice', 'the script wrote the learning rate'],
  ['ownMetric', "is the script's own"],
  ['ownSharded', 'zero_optimization.stage needs an optimizer that the engine runs'],
  ['ownLater', 'compression.start_step needs an optimizer that the engine runs'],
  ['sumLoss', 'loss is 12.39'],
] as const)('refuses %s', (name, text) => {
  for (const { error } of cases.outcomes(2, name)) expect(error).toMatch(text);
});

it('names a misspelt key of the section', async () => {
  const config = Buffer.from(JSON.stringify({ tfjs: { exact_randomm: true } }));
  const flags = ['--deepspeed', config.toString('base64')];
  const { status, stderr } = await overRanks(2, 'rules.ts', ['plain'], { flags });
  expect(status).not.toBe(0);
  expect(stderr).toContain('exact_randomm');
});

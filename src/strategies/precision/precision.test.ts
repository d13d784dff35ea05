/** 16-bit storage and communication: equality of stages, closeness to fp32, overflow, checkpoints. */
import { afterAll, describe, expect, it } from 'vitest';
import {
  type RankResult,
  removeFolders,
  temporaryFolder,
  train,
  trainRanks,
} from '../../trainer/testing/train-ranks.ts';
import { zeroBytes } from '../zero/estimate.ts';
import type { ZeroStage } from '../zero/stage.ts';
import type { Precision } from './precision.ts';

afterAll(removeFolders);

const bf16 = { bf16: { enabled: true } };
const stage = (value: ZeroStage) => ({
  zero_optimization: {
    stage: value,
    // Of stage 3: norms and biases stay whole, about a layer is gathered ahead.
    stage3_param_persistence_threshold: 64,
    stage3_prefetch_bucket_size: 3000,
    stage3_max_reuse_distance: 1,
  },
});

/** 32-bit patterns by parameter: equality is bitwise. */
function bits({ parameters }: RankResult): Record<string, Uint32Array> {
  return Object.fromEntries(
    [...parameters].map(([name, values]) => [name, new Uint32Array(values.buffer.slice(0))]),
  );
}

function norm(values: Iterable<number>): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

describe.each([1, 2])('bf16 on %i ranks', (worldSize) => {
  const run = (value: ZeroStage, gradientAccumulationSteps: number) =>
    train({
      worldSize,
      args: { gradientAccumulationSteps, deepspeed: { ...bf16, ...stage(value) } },
    });

  it('gives the same bits at every stage, and stages 0 and 1 with accumulation', async () => {
    const reference = bits(await run(0, 1));
    for (const other of [1, 2, 3] as const) expect(bits(await run(other, 1))).toEqual(reference);
    expect(bits(await run(3, 2))).toEqual(bits(await run(2, 2)));
    expect(bits(await run(1, 2))).toEqual(bits(await run(0, 2)));
  });

  it('shows the model bf16 numbers only', async () => {
    for (const [name, pattern] of Object.entries(bits(await run(1, 1))))
      expect([name, pattern.filter((word) => (word & 0xffff) !== 0).length]).toEqual([name, 0]);
  });
});

it("begins with rank 0's values, whatever the other rank has, at stages 0 to 2", async () => {
  const run = (value: ZeroStage, seeds: readonly number[]) =>
    train({ worldSize: 2, seeds, args: { maxSteps: 2, deepspeed: { ...bf16, ...stage(value) } } });
  const reference = bits(await run(0, [7, 7]));
  for (const value of [0, 1, 2] as const) expect(bits(await run(value, [7, 8]))).toEqual(reference);
  expect(bits(await run(2, [8, 7]))).not.toEqual(reference);
});

it('all ranks see the same bf16 parameters', async () => {
  const [first, second] = await trainRanks({
    worldSize: 2,
    args: { deepspeed: { ...bf16, ...stage(2) } },
  });
  expect(bits(second!)).toEqual(bits(first!));
});

/**
 * One SGD step, p − η·g, with u = 2⁻⁸ for bf16 (8 significant bits) and 2⁻¹¹ for fp16. Rounding the result
 * moves an element by at most u·|p|. The gradient is rounded to 16 bits by each rank and once more as a
 * sum, and is that of weights rounded by u each; the loss passes through some 16 products of weights and
 * activations: ‖Δg‖ ≤ 18·u·‖g‖.
 */
it.each(['bf16', 'fp16'])('%s stays within the rounding of fp32', async (name) => {
  const unit = name === 'bf16' ? 2 ** -8 : 2 ** -11;
  const run = (precision: object, learningRate: number) =>
    train({
      worldSize: 2,
      args: {
        maxSteps: 1,
        learningRate,
        deepspeed: {
          ...precision,
          optimizer: { type: 'SGD', params: { lr: 'auto' } },
          gradient_clipping: 0,
          ...stage(1),
        },
      },
    });
  const still = await run({}, 0);
  const moved = await run({}, 0.5);
  const scale = name === 'fp16' ? { initial_scale_power: 8 } : {};
  const narrow = await run({ [name]: { enabled: true, ...scale } }, 0.5);
  expect(narrow.metrics[0]!.skipped).toBe(false);
  for (const [parameter, values] of moved.parameters) {
    const before = still.parameters.get(parameter)!;
    const update = norm(values.map((value, i) => value - before[i]!));
    const error = norm(narrow.parameters.get(parameter)!.map((value, i) => value - values[i]!));
    // Key biases move by rounding noise only: their gradient is 0 but for that.
    expect([parameter, error <= unit * (norm(values) + 18 * update) + 1e-6]).toEqual([
      parameter,
      true,
    ]);
    // The test would notice if nothing were rounded.
    if (norm(values) > 1 && update > 0) expect(error).toBeGreaterThan(0);
  }
});

describe('fp16', () => {
  const fp16 = (options: object, value: ZeroStage = 0, maxSteps = 5) => ({
    maxSteps,
    deepspeed: { fp16: { enabled: true, hysteresis: 1, ...options }, ...stage(value) },
  });

  it('skips steps that overflow, halves the scale and holds the schedule back', async () => {
    // Gradients of about 0.1 times 2¹⁸ or more exceed 65504; some halvings later they fit.
    const run = await train({ worldSize: 2, args: fp16({ initial_scale_power: 22 }, 1, 8) });
    let scale = 2 ** 22;
    let applied = 0;
    for (const { skipped, lossScale, learningRate } of run.metrics) {
      expect(lossScale).toBe(scale);
      // The Trainer's linear schedule over 8 steps, counted in steps that were applied.
      expect(learningRate).toBeCloseTo(1e-2 * (1 - applied / 8), 12);
      if (skipped) scale /= 2;
      else applied += 1;
    }
    expect(applied).toBeGreaterThan(1);
    expect(applied).toBeLessThan(7);
    expect(run.state.skippedSteps).toBe(8 - applied);
    expect(run.metrics.every((m) => m.skipped === Number.isNaN(m.gradientNorm))).toBe(true);
  });

  it('leaves weights as they were in a skipped step', async () => {
    const still = await train({
      args: {
        maxSteps: 1,
        learningRate: 0,
        deepspeed: { fp16: { enabled: true, initial_scale_power: 4 } },
      },
    });
    const skipping = await train({ args: fp16({ initial_scale_power: 40 }, 0, 2) });
    expect(skipping.state.skippedSteps).toBe(2);
    expect(bits(skipping)).toEqual(bits(still));
  });

  it('forgives the first overflows under ZeRO only', async () => {
    const options = { initial_scale_power: 40, hysteresis: 2 };
    const zero = await train({ args: fp16(options, 2, 3) });
    const plain = await train({ args: fp16(options, 0, 3) });
    expect(zero.metrics.map(({ lossScale }) => Math.log2(lossScale))).toEqual([40, 40, 39]);
    expect(plain.metrics.map(({ lossScale }) => Math.log2(lossScale))).toEqual([40, 39, 38]);
  });

  it('ends training when the smallest scale overflows under ZeRO', async () => {
    const ranks = await trainRanks({
      worldSize: 2,
      args: fp16({ initial_scale_power: 40, min_loss_scale: 2 ** 40 }, 1),
    });
    expect(ranks.map(({ error }) => error?.code)).toEqual(Array(2).fill('LOSS_SCALE_AT_MINIMUM'));
  });

  it('keeps a fixed scale, and doubles a dynamic one after its window', async () => {
    const fixed = await train({ args: fp16({ loss_scale: 128 }) });
    expect(new Set(fixed.metrics.map(({ lossScale }) => lossScale))).toEqual(new Set([128]));
    const grown = await train({ args: fp16({ initial_scale_power: 4, loss_scale_window: 2 }) });
    expect(grown.metrics.map(({ lossScale }) => lossScale)).toEqual([16, 16, 16, 32, 32]);
  });

  it.each([2, 3] as const)(
    'resumes exactly at stage %i: weights, scale, skipped steps and schedule',
    async (value) => {
      const args = {
        ...fp16({ initial_scale_power: 20 }, value, 8),
        outputDir: temporaryFolder(),
        saveStrategy: 'steps',
        saveSteps: 3,
      } as const;
      const whole = await train({ worldSize: 2, args });
      const resumed = await train({
        worldSize: 2,
        args: { ...args, outputDir: temporaryFolder(), saveStrategy: 'no' },
        resumeFromCheckpoint: `${args.outputDir}/global_step3`,
      });
      expect(whole.state.skippedSteps).toBeGreaterThan(0);
      expect(resumed.metrics).toEqual(whole.metrics.slice(3));
      expect(resumed.state.skippedSteps).toBe(whole.state.skippedSteps);
      expect(bits(resumed)).toEqual(bits(whole));
    },
  );
});

it('resumes at another stage, world size and precision from the fp32 weights', async () => {
  const outputDir = temporaryFolder();
  const saved = await train({
    worldSize: 2,
    args: { outputDir, saveStrategy: 'steps', deepspeed: { ...bf16, ...stage(2) } },
  });
  const load = (precision: object, value: ZeroStage) =>
    train({
      args: {
        outputDir: temporaryFolder(),
        perDeviceTrainBatchSize: 8,
        deepspeed: { ...precision, ...stage(value) },
      },
      resumeFromCheckpoint: outputDir,
    });
  // maxSteps is reached: nothing is trained after loading.
  expect(bits(await load(bf16, 1))).toEqual(bits(saved));
  expect(bits(await load(bf16, 0))).toEqual(bits(saved));
  const wide = await load({}, 0);
  let finer = 0;
  for (const [name, values] of wide.parameters) {
    const narrow = saved.parameters.get(name)!;
    for (const [i, value] of values.entries()) {
      // Half a unit in the last place of bf16, or of its smallest normal numbers.
      expect(Math.abs(narrow[i]! - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -8);
      if (narrow[i] !== value) finer += 1;
    }
  }
  expect(finer).toBeGreaterThan(0);
});

it.each([
  [0, false],
  [1, false],
  [2, false],
  [2, true],
] as const)(
  'accounts for its memory at stage %i, reduced at the boundary: %s',
  async (value, atBoundary) => {
    const zero = { stage: value, reduce_at_boundary: atBoundary };
    const { memory } = await train({
      worldSize: 2,
      args: { gradientAccumulationSteps: 2, deepspeed: { ...bf16, zero_optimization: zero } },
    });
    const elements = memory.current.parameters / 2;
    const expected = zeroBytes(
      value,
      elements,
      2,
      { kind: 'adamw', groups: [], maxNorm: 1 },
      { storage: 'bfloat16', gradientType: 'bfloat16', skipsOverflow: true, lossScale: null },
      value < 2 || atBoundary,
    );
    const { parameters, gradients, master } = memory.current;
    expect({ parameters, gradients, master }).toEqual({
      parameters: expected.parameters,
      gradients: expected.gradients,
      master: expected.master,
    });
    // A norm and the step's scalars come on top; at stage 2 the gradient windows, at most a model.
    expect(memory.current.optimizer - expected.optimizer).toBe(64);
    const extra = memory.current.window - expected.window;
    expect(extra).toBeLessThanOrEqual(value === 2 && !atBoundary ? elements * 4 : 0);
  },
);

it.each([false, true])('accounts for its memory at stage 3, in bf16: %s', async (narrow) => {
  const model = await train({ args: {} });
  const { memory } = await train({
    worldSize: 2,
    args: { deepspeed: { ...(narrow && bf16), ...stage(3) } },
  });
  const elements = model.memory.current.parameters / 4;
  const shard = memory.current.gradients / 4;
  // Half of it, but for the padding of two shards.
  expect(Math.abs(shard - elements / 2)).toBeLessThanOrEqual(16);
  const storage = narrow ? 'bfloat16' : 'float32';
  const precision = { storage, gradientType: storage, skipsOverflow: narrow, lossScale: null };
  const adamw = { kind: 'adamw', groups: [], maxNorm: 1 } as const;
  const expected = zeroBytes(3, 2 * shard, 2, adamw, precision as Precision);
  const { parameters, gradients, optimizer, master } = memory.current;
  expect({ parameters, gradients, optimizer: optimizer - 64, master }).toEqual({
    parameters: expected.parameters,
    gradients: expected.gradients,
    optimizer: expected.optimizer,
    master: expected.master,
  });
});

it('takes bf16 from the arguments, with and without a config', async () => {
  const config = await train({ args: { deepspeed: bf16 } });
  const argument = await train({
    args: { bf16: true, deepspeed: { zero_optimization: { stage: 0 } } },
  });
  const auto = await train({ args: { bf16: true, deepspeed: { bf16: { enabled: 'auto' } } } });
  const ddp = await train({ args: { bf16: true, strategy: 'ddp' } });
  for (const other of [argument, auto, ddp]) expect(bits(other)).toEqual(bits(config));
});

it('skips or stops when bf16 gradients are not finite, as check_grad_overflow says', async () => {
  // The factor takes the loss beyond fp32: gradients are not finite although the loss is.
  const run = (check_grad_overflow: boolean) =>
    trainRanks({
      args: {
        deepspeed: {
          bf16: { enabled: true, check_grad_overflow },
          gradient_predivide_factor: 1e-45,
        },
      },
    });
  const [skipping] = await run(true);
  expect(skipping!.state.skippedSteps).toBe(3);
  const [stopped] = await run(false);
  expect(stopped!.error?.code).toBe('LOSS_NOT_FINITE');
});

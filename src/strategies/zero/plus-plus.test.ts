/** ZeRO++, between machines: what travels, what it costs, and how far training stays from that of stage 3 without it. */
import { afterAll, describe, expect, it } from 'vitest';
import {
  type RankResult,
  type RankTask,
  removeFolders,
  train,
  trainRanks,
} from '../../trainer/testing/train-ranks.ts';

afterAll(removeFolders);

const zero = (more: object = {}, config: object = {}) => ({
  zero_optimization: {
    stage: 3,
    stage3_param_persistence_threshold: 64,
    stage3_prefetch_bucket_size: 1000,
    stage3_max_reuse_distance: 1,
    ...more,
  },
  ...config,
});

const run = (deepspeed: Record<string, unknown>, more: Partial<RankTask> = {}) =>
  train({ worldSize: 2, apart: true, ...more, args: { maxGradNorm: 0, ...more.args, deepspeed } });

function bytesOf({ stats }: RankResult, operation: string): number {
  return stats
    .filter((entry) => entry.operation === operation)
    .reduce((sum, { bytes, calls }) => sum + bytes * calls, 0);
}

const lossesOf = ({ metrics }: RankResult) => metrics.map(({ loss }) => loss);

describe('zero_hpz_partition_size', () => {
  it.each([
    ['fp32', 4, 2, {}, {}],
    ['bf16', 2, 2, { bf16: { enabled: true } }, {}],
    ['far ahead', 2, 2, {}, { stage3_prefetch_bucket_size: 1e6, stage3_max_reuse_distance: 0 }],
  ])(
    'trains to the same bits, %s, %d ranks in groups of %d',
    async (_, worldSize, ranks, config, limits) => {
      const plain = await run(zero(limits, config), { worldSize });
      const more = { ...limits, zero_hpz_partition_size: ranks };
      const grouped = await run(zero(more, config), { worldSize });
      expect(lossesOf(grouped)).toEqual(lossesOf(plain));
      expect(grouped.parameters).toEqual(plain.parameters);
    },
  );

  it('keeps a second shard, from which backward gathers', async () => {
    const [plain, grouped] = [await run(zero()), await run(zero({ zero_hpz_partition_size: 2 }))];
    // On two ranks a slice of a group of two is as large as a shard.
    expect(grouped.memory.current.parameters).toBe(2 * plain.memory.current.parameters);
    // A group of all ranks gathers as much; making it takes some bytes.
    const more = bytesOf(grouped, 'allGather') - bytesOf(plain, 'allGather');
    expect(more).toBeGreaterThanOrEqual(0);
    expect(more).toBeLessThan(1000);
  });
});

/** Gradient descent, so that a step is its gradient. */
const descent = (lr: number) => ({ optimizer: { type: 'SGD', params: { lr } } });
const stepOf = (lr: number, more: object = {}): [Record<string, unknown>, Partial<RankTask>] => [
  zero(more, descent(lr)),
  { args: { maxSteps: 1, learningRate: lr } },
];

/**
 * What a loss may move by when parameters are read in blocks of int8, from runs before and after a step of descent by 1.
 * First order: Σ |dL/dw| · largest/254, and as much again for what is not linear.
 */
function lossBound(before: RankResult, after: RankResult, isQuantised = (_: string) => true) {
  let bound = 0;
  for (const [name, values] of before.parameters) {
    if (!isQuantised(name)) continue;
    const moved = after.parameters.get(name)!;
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    values.forEach((value, index) => {
      bound += (Math.abs(value - moved[index]!) * largest) / 254;
    });
  }
  return 2 * bound;
}

describe('zero_quantized_weights', () => {
  it('moves a loss by no more than its gradient and half a step of the code allow', async () => {
    const before = await run(...stepOf(0));
    const after = await run(...stepOf(1));
    const quantised = await run(...stepOf(0, { zero_quantized_weights: true }));
    const away = Math.abs(quantised.metrics[0]!.loss - before.metrics[0]!.loss);
    expect(away).toBeGreaterThan(0);
    expect(away).toBeLessThan(lossBound(before, after));
    // What is saved and exported are the weights themselves.
    expect(quantised.parameters).toEqual(before.parameters);
  });

  it('gathers a byte an element and a scale for 256', async () => {
    const plain = await run(zero({ stage3_param_persistence_threshold: 0 }));
    const quantised = await run(
      zero({ stage3_param_persistence_threshold: 0, zero_quantized_weights: true }),
    );
    // Reading the parameters at the end gathers 4 bytes an element, once beside 3 steps of twice; parts are cut at
    // shards and sent in whole cache lines.
    const share = bytesOf(quantised, 'allGather') / bytesOf(plain, 'allGather');
    expect(share).toBeGreaterThan(0.25 * (1 + 4 / 256));
    expect(share).toBeLessThan(0.6);
  });

  it.each(['bf16', 'fp16'])('gathers %s weights, too', async (precision) => {
    const config = {
      [precision]: { enabled: true, ...(precision === 'fp16' && { initial_scale_power: 8 }) },
    };
    const plain = await run(zero({}, config));
    const quantised = await run(zero({ zero_quantized_weights: true }, config));
    for (const [step, loss] of lossesOf(quantised).entries()) {
      expect(Math.abs(loss / lossesOf(plain)[step]! - 1)).toBeLessThan(0.02);
    }
  });
});

it('zero_quantized_nontrainable_weights: what is frozen travels in a byte an element, and stays as it is', async () => {
  const freeze = 'transformer.h.';
  const isFrozen = (name: string) => name.startsWith(freeze);
  const [before, after] = [await run(...stepOf(0)), await run(...stepOf(1))];
  const frozen = (more: object) => {
    const [config, task] = stepOf(0, { stage3_param_persistence_threshold: 0, ...more });
    return run(config, { ...task, freeze });
  };
  const plain = await frozen({});
  const trained = await frozen({ zero_quantized_weights: true });
  const quantised = await frozen({ zero_quantized_nontrainable_weights: true });
  expect(lossesOf(plain)).toEqual(lossesOf(before));
  expect(quantised.parameters).toEqual(plain.parameters);
  const away = Math.abs(lossesOf(quantised)[0]! - lossesOf(plain)[0]!);
  expect(away).toBeGreaterThan(0);
  expect(away).toBeLessThan(lossBound(before, after, isFrozen));
  // Each key has its own parameters: no byte is saved twice.
  const both = await frozen({
    zero_quantized_weights: true,
    zero_quantized_nontrainable_weights: true,
  });
  const saved = (one: RankResult) => bytesOf(plain, 'allGather') - bytesOf(one, 'allGather');
  expect(saved(quantised)).toBeGreaterThan(0);
  expect(saved(both)).toBe(saved(trained) + saved(quantised));
});

describe('zero_quantized_gradients', () => {
  it('sends half a byte an element and a scale for 256, to owners alone', async () => {
    const result = await run(zero({ zero_quantized_gradients: true }));
    const plain = await run(zero());
    expect(bytesOf(result, 'reduceScatter')).toBe(0);
    // A rank of two sends the other's half, where plain reduce-scatter works on all.
    const whole = bytesOf(plain, 'reduceScatter') / 4;
    expect(bytesOf(result, 'send')).toBeGreaterThan((whole / 2) * (0.5 + 4 / 256) * 0.8);
    expect(bytesOf(result, 'send')).toBeLessThan((whole / 2) * (0.5 + 4 / 256) * 1.25);
  });

  it('learns as without, all three together', async () => {
    const long = { samples: 64, args: { maxSteps: 12, learningRate: 1e-2 } };
    const plain = lossesOf(await run(zero({}), long));
    const all = {
      zero_quantized_weights: true,
      zero_quantized_gradients: true,
      zero_hpz_partition_size: 2,
    };
    const less = lossesOf(await run(zero(all), long));
    const learnt = plain[0]! - plain.at(-1)!;
    expect(learnt).toBeGreaterThan(0.5);
    expect(Math.abs(less.at(-1)! - plain.at(-1)!)).toBeLessThan(0.15 * learnt);
  });

  it("with whole gradients until the boundary, and one overflow is everybody's", async () => {
    const accumulating = { gradient_accumulation_steps: 2 };
    const more = { reduce_at_boundary: true, reduce_bucket_size: 3000 };
    const plain = await run(zero(more, accumulating));
    const less = await run(zero({ ...more, zero_quantized_gradients: true }, accumulating));
    expect(lossesOf(less)[0]).toBe(lossesOf(plain)[0]);
    expect(Math.abs(lossesOf(less).at(-1)! / lossesOf(plain).at(-1)! - 1)).toBeLessThan(0.05);
    // Beyond the range of fp32, in which these gradients are added up.
    const fp16 = { fp16: { enabled: true, initial_scale_power: 160, hysteresis: 1 } };
    const overflowing = await run(zero({ zero_quantized_gradients: true }, fp16));
    expect(overflowing.state.skippedSteps).toBeGreaterThan(0);
  });
});

it('groups that ranks do not divide into are refused', async () => {
  const deepspeed = zero({ zero_hpz_partition_size: 2 });
  const errors = (await trainRanks({ worldSize: 3, args: { deepspeed } })).map(
    ({ error }) => error,
  );
  for (const error of errors) {
    expect(error).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(error!.message).toMatch(/zero_hpz_partition_size is 2: 3 ranks/);
  }
});

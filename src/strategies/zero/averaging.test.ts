/** Where gradients are averaged, and how buckets are reduced, must not change what is learnt. */
import { afterAll, describe, expect, it } from 'vitest';
import {
  type RankResult,
  type RankTask,
  removeFolders,
  train,
} from '../../trainer/testing/train-ranks.ts';

afterAll(removeFolders);

const run = (deepspeed: object, args: Partial<RankTask['args']> = {}) =>
  train({ worldSize: 2, args: { ...args, deepspeed: { ...deepspeed } } });

function bits({ parameters }: RankResult): Record<string, Uint32Array> {
  return Object.fromEntries(
    [...parameters].map(([name, values]) => [name, new Uint32Array(values.buffer.slice(0))]),
  );
}

const calls = ({ stats }: RankResult, operation: string, dtypeBytes: number, elements: number) =>
  stats.some((entry) => entry.operation === operation && entry.bytes === dtypeBytes * elements);

describe('prescale_gradients and gradient_predivide_factor', () => {
  // Factors on the wire relative to the mean over ranks, W = 2: 1 when prescaled, else W / factor.
  const cases = [
    { prescale_gradients: true, gradient_predivide_factor: 1, onWire: 1 },
    { prescale_gradients: false, gradient_predivide_factor: 1, onWire: 2 },
    { prescale_gradients: false, gradient_predivide_factor: 2, onWire: 1 },
    { prescale_gradients: false, gradient_predivide_factor: 0.25, onWire: 8 },
    { prescale_gradients: true, gradient_predivide_factor: 4, onWire: 1 },
  ];
  const plain = run({ prescale_gradients: true });

  it.each(cases)('$onWire times the mean: the same bits', async ({ onWire, ...keys }) => {
    // Powers of two scale without rounding.
    const other = await run(keys);
    expect(bits(other)).toEqual(bits(await plain));
    const peaks = (await plain).gradientPeaks;
    expect(other.gradientPeaks).toEqual(peaks.map((peak) => peak * onWire));
  });

  it('another factor: equal within fp32', async () => {
    const other = await run({ gradient_predivide_factor: 3 });
    for (const [name, values] of (await plain).parameters) {
      // Adam divides the gradient by its own size: what rounding makes of a tiny one may move a
      // weight by a share of the learning rate, 1e-2. Key biases have only such gradients.
      if (name.endsWith('c_attn.bias')) continue;
      const moved = other.parameters.get(name)!.map((value, i) => Math.abs(value - values[i]!));
      expect(Math.max(...moved)).toBeLessThan(1e-4);
    }
    expect(other.gradientPeaks[0]! / (await plain).gradientPeaks[0]!).toBeCloseTo(2 / 3, 5);
  });

  it('holds at stages 1 and 2', async () => {
    const stage1 = { zero_optimization: { stage: 1 }, gradient_predivide_factor: 2 };
    const stage2 = {
      zero_optimization: { stage: 2, reduce_scatter: false },
      prescale_gradients: true,
    };
    expect(bits(await run(stage1))).toEqual(bits(await plain));
    expect(bits(await run(stage2))).toEqual(bits(await plain));
  });
});

describe.each([1, 2])('reduce_scatter false at stage %i', (stage) => {
  it.each([{}, { bf16: { enabled: true } }])(
    '%o: all-reduces, with the same bits',
    async (extra) => {
      const zero = { stage, reduce_bucket_size: 500, allgather_bucket_size: 500 };
      const args = { gradientAccumulationSteps: 2 };
      const scattered = await run({ ...extra, zero_optimization: zero }, args);
      const whole = await run(
        { ...extra, zero_optimization: { ...zero, reduce_scatter: false } },
        args,
      );
      expect(bits(whole)).toEqual(bits(scattered));
      const operations = ({ stats }: RankResult) =>
        new Set(stats.map(({ operation }) => operation));
      expect(operations(scattered)).toContain('reduceScatter');
      expect(operations(whole)).not.toContain('reduceScatter');
    },
  );
});

it('communication_data_type alone halves the bytes of gradients and keeps fp32 weights', async () => {
  const one = { reduce_bucket_size: 1e9, allgather_bucket_size: 1e9, stage: 1 };
  const wide = await run({ zero_optimization: one });
  const narrow = await run({ zero_optimization: one, communication_data_type: 'bf16' });
  const elements = wide.memory.current.parameters / 4;
  expect(calls(wide, 'reduceScatter', 4, elements)).toBe(true);
  expect(calls(narrow, 'reduceScatter', 2, elements)).toBe(true);
  expect(calls(narrow, 'reduceScatter', 4, elements)).toBe(false);
  expect(calls(narrow, 'allGather', 4, elements)).toBe(true);
  const full = [...bits(narrow)['transformer.wte.weight']!].some((word) => (word & 0xffff) !== 0);
  expect(full).toBe(true);
  expect(bits(narrow)).not.toEqual(bits(wide));
});

it('communication_data_type fp32 keeps the gradients of bf16 training whole', async () => {
  const one = { reduce_bucket_size: 1e9, allgather_bucket_size: 1e9, stage: 1 };
  const bf16 = { bf16: { enabled: true }, zero_optimization: one };
  const whole = await run({ ...bf16, communication_data_type: 'fp32' });
  const elements = whole.memory.current.parameters / 2;
  expect(calls(whole, 'reduceScatter', 4, elements)).toBe(true);
  expect(calls(whole, 'allGather', 2, elements)).toBe(true);
});

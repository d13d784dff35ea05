/** One layout of a run for sequences of all lengths: what a row attends to, and what a training comes to. */
import { afterAll, describe, expect, it } from 'vitest';
import { readConfig, readSparseAttention } from '../../config/index.ts';
import {
  type RankTask,
  removeFolders,
  train,
  trainRanks,
} from '../../trainer/testing/train-ranks.ts';
import { type ModelLength, RunLayouts } from './run-layouts.ts';
import { sparsityConfig } from './sparsity-config.ts';

afterAll(removeFolders);

const layoutsOf = (section: object, longest: ModelLength) =>
  new RunLayouts(readSparseAttention(readConfig({ sparse_attention: section }))!, longest);

const wholeOf = (section: object, longest: ModelLength, length = 16) =>
  layoutsOf(section, longest).of({ heads: 1, length }).whole.sequenceLength;

describe('the length that the layout is made for', () => {
  it.each([
    ['is the model’s', {}, 512, 512],
    ['is of whole blocks', {}, 100, 112],
    ['has a limit', {}, 131_072, 16_384],
    ['is DeepSpeed’s where the model has none', {}, undefined, 2048],
    ['is that at hand where a graph has no other', {}, 'fixed', 16],
    ['is the one asked for', { max_seq_length: 64 }, 512, 64],
    ['may be above the limit', { max_seq_length: 32_768 }, 131_072, 32_768],
  ] as const)('%s', (_, section, longest, expected) => {
    expect(wholeOf(section, longest)).toBe(expected);
  });

  it('is one that no sequence may pass, and the error says which key to change', () => {
    expect(() => layoutsOf({ max_seq_length: 64 }, 512).of({ heads: 1, length: 80 })).toThrow(
      expect.objectContaining({
        code: 'LAYOUT_INVALID',
        message: expect.stringMatching(/max_seq_length: sequences of 80 positions.* 64/),
        fix: expect.stringContaining('max_seq_length to 80 or more'),
      }),
    );
  });

  it('must do for the keys, whatever the lengths at hand are', () => {
    const section = { mode: 'bigbird', num_sliding_window_blocks: 5 };
    expect(wholeOf(section, 80)).toBe(80);
    expect(() => wholeOf(section, 64)).toThrow(
      /num_sliding_window_blocks: 5 is above the 4 blocks/,
    );
  });
});

/** All modes, those whose layouts depend on the length and those whose do not. */
const sections: object[] = [
  { mode: 'dense' },
  { num_local_blocks: 6, num_global_blocks: 3 },
  { num_local_blocks: 4, horizontal_global_attention: true },
  {
    different_layout_per_head: true,
    num_different_global_patterns: 4,
    attention: 'unidirectional',
  },
  {
    mode: 'variable',
    local_window_blocks: [1, 3],
    global_block_indices: [5],
    num_random_blocks: 2,
  },
  {
    ...{ mode: 'variable', horizontal_global_attention: true, num_random_blocks: 1 },
    ...{ global_block_indices: [3], global_block_end_indices: [5] },
  },
  { mode: 'bigbird', num_random_blocks: 3, different_layout_per_head: true },
  { mode: 'bigbird', num_random_blocks: 3, attention: 'unidirectional' },
  { mode: 'bslongformer', global_block_indices: [7, 2] },
  { mode: 'local', num_sliding_window_blocks: 1 },
];

describe.each(sections.map((section) => [JSON.stringify(section), section]))('%s', (_, section) => {
  const layouts = layoutsOf(section, 176);
  const whole = sparsityConfig(
    readSparseAttention(readConfig({ sparse_attention: section }))!,
    3,
  ).makeLayout(176);

  it('has rows of the same blocks at every length', () => {
    for (let blocks = 1; blocks <= 11; blocks++) {
      const { layout } = layouts.of({ heads: 3, length: 16 * blocks });
      expect([layout.blocks, layout.heads.length]).toEqual([blocks, 3]);
      for (let head = 0; head < 3; head++)
        for (let at = 0; at < blocks ** 2; at++) {
          const [row, column] = [Math.floor(at / blocks), at % blocks];
          expect(layout.attends(head, row, column)).toBe(whole.attends(head, row, column));
        }
    }
  });

  it('has no row without a block, and takes whole blocks alone', () => {
    for (let blocks = 1; blocks <= 11; blocks++)
      layouts.of({ heads: 3, length: 16 * blocks }).layout.requireAttendingRows({ causal: true });
    for (const length of [0, 8, 24])
      expect(() => layouts.of({ heads: 3, length })).toThrow(/sparse_attention\.block:/);
  });
});

describe('samples of different lengths', () => {
  /** Six a step, of 72 to 128 positions. */
  const task = (
    section: object,
    [ranks, micro, accumulated]: readonly [number, number, number],
    stage = 0,
  ): RankTask => ({
    worldSize: ranks,
    positions: 128,
    args: {
      maxSteps: 3,
      learningRate: 0.3,
      perDeviceTrainBatchSize: micro,
      gradientAccumulationSteps: accumulated,
      deepspeed: {
        optimizer: { type: 'SGD', params: { lr: 'auto' } },
        gradient_clipping: 0,
        zero_optimization: { stage, stage3_param_persistence_threshold: 0 },
        sparse_attention: section,
      },
    },
  });
  const difference = (a: Map<string, Float32Array>, b: Map<string, Float32Array>) =>
    Math.max(
      ...[...a].map(([name, values]) =>
        values.reduce((most, value, i) => Math.max(most, Math.abs(value - b.get(name)![i]!)), 0),
      ),
    );

  /** Layouts that are others at 80 than at 128 positions. */
  it.each([
    ['fixed', { num_local_blocks: 3, horizontal_global_attention: true }],
    ['bigbird', { mode: 'bigbird', num_random_blocks: 1, num_sliding_window_blocks: 1 }],
  ])('train the same under %s, however a batch is divided', async (_, section) => {
    const { parameters } = await train(task(section, [1, 6, 1]));
    for (const [division, stage] of [
      [[1, 2, 3], 0],
      [[2, 3, 1], 2],
      [[3, 2, 1], 3],
      [[3, 1, 2], 0],
    ] as const) {
      const other = await train(task(section, division, stage));
      // Rounding of sums in another order, over three steps: 1e-8. Layouts of the lengths at hand made 8e-5.
      expect(difference(parameters, other.parameters), String(division)).toBeLessThan(1e-6);
    }
    const longer = await train(task({ ...section, max_seq_length: 176 }, [1, 6, 1]));
    expect(difference(parameters, longer.parameters)).toBeGreaterThan(1e-4);
  });

  it('stop all ranks where one has a sample beyond the layout', async () => {
    const replies = await trainRanks(task({ max_seq_length: 112 }, [2, 3, 1]));
    expect(replies.map(({ error }) => error?.message)).toContainEqual(
      expect.stringMatching(/max_seq_length: sequences of 128 positions/),
    );
    for (const { error } of replies) expect(error).toBeDefined();
  });
});

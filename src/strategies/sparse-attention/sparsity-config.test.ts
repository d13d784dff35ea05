import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type SparseAttentionValues, sparseAttention } from '../../config/index.ts';
import { BlockLayout } from './block-layout.ts';
import {
  BigBirdSparsityConfig,
  FixedSparsityConfig,
  LocalSlidingWindowSparsityConfig,
  sparsityConfig,
  VariableSparsityConfig,
} from './sparsity-config.ts';

interface Golden {
  mode: SparseAttentionValues['mode'];
  keys: Partial<SparseAttentionValues>;
  sequenceLength: number;
  heads: number;
  layouts: { bitmaps: string[][]; heads: number[] }[];
}
const goldens: Golden[] = JSON.parse(
  readFileSync(new URL('../../../goldens/sparse-layouts.json', import.meta.url), 'utf8'),
).cases;

/** The section with every key filled; the class's own default of bigbird's random blocks, as in the goldens. */
function filled({ mode, keys }: Pick<Golden, 'mode' | 'keys'>): SparseAttentionValues {
  const defaults = Object.entries(sparseAttention.keys).map(([name, key]) => [name, key.default]);
  const own = mode === 'bigbird' ? { num_random_blocks: 1 } : {};
  const local = mode === 'local' ? { attention: 'unidirectional' } : {};
  return { ...Object.fromEntries(defaults), ...own, ...local, ...keys, mode };
}

const hasRandomBlocks = (values: SparseAttentionValues) =>
  ['variable', 'bigbird'].includes(values.mode) && values.num_random_blocks > 0;

function textOf(layout: BlockLayout): string[][] {
  return layout.heads.map((bitmap) =>
    Array.from({ length: layout.blocks }, (_, row) =>
      bitmap.subarray(row * layout.blocks, (row + 1) * layout.blocks).join(''),
    ),
  );
}

/** A unidirectional layout of DeepSpeed without the blocks that it leaves above the diagonal. */
function golden(values: SparseAttentionValues, rows: readonly string[]): string[] {
  if (values.attention !== 'unidirectional') return [...rows];
  return rows.map((row, i) => row.slice(0, i + 1).padEnd(row.length, '0'));
}

describe("DeepSpeed's layouts", () => {
  it.each(goldens.filter((one) => !hasRandomBlocks(filled(one))))(
    '$mode $keys over $sequenceLength positions',
    (one) => {
      const values = filled(one);
      const [{ bitmaps, heads }] = one.layouts as [Golden['layouts'][0]];
      const layout = sparsityConfig(values, one.heads).makeLayout(one.sequenceLength);
      expect(textOf(layout)).toEqual(heads.map((index) => golden(values, bitmaps[index]!)));
    },
  );

  // Python's generator draws other blocks: what can be compared is what is there without them, that heads
  // share their draw or not, and how many blocks a row has more.
  it.each(goldens.filter((one) => hasRandomBlocks(filled(one))))(
    '$mode $keys with random blocks',
    (one) => {
      const values = filled(one);
      const fixedPart = textOf(
        sparsityConfig({ ...values, num_random_blocks: 0 }, 1).makeLayout(one.sequenceLength),
      )[0]!;
      const own = textOf(sparsityConfig(values, one.heads).makeLayout(one.sequenceLength));
      const theirs = one.layouts.map(({ bitmaps, heads }) => heads.map((i) => bitmaps[i]!));
      for (const heads of [own, ...theirs]) {
        expect(new Set(heads.map(String)).size).toBe(
          values.different_layout_per_head ? one.heads : 1,
        );
        for (const rows of heads) {
          for (const [i, row] of rows.entries()) {
            const more = [...row].filter((cell, c) => cell !== fixedPart[i]![c]);
            expect(more.every((cell) => cell === '1')).toBe(true);
            expect(more.length).toBeLessThanOrEqual(values.num_random_blocks);
          }
        }
      }
    },
  );
});

/** The published definitions, one block at a time. */
function attends(
  values: SparseAttentionValues,
  blocks: number,
  head: number,
  r: number,
  c: number,
) {
  const {
    num_local_blocks: local,
    num_global_blocks: global,
    num_sliding_window_blocks: window,
    horizontal_global_attention: horizontal,
  } = values;
  if (values.attention === 'unidirectional' && c > r) return false;
  const near = Math.abs(r - c) <= Math.floor(window / 2);
  const listed = (block: number) =>
    values.global_block_indices.some((start, i) => {
      const end = values.global_block_end_indices?.[i] ?? start + 1;
      return start <= block && block < end;
    });
  const isGlobal = (block: number) => {
    const start = Math.floor(block / local) * local;
    const turn = values.different_layout_per_head ? head % values.num_different_global_patterns : 0;
    const wished = start + local - (turn + 1) * global;
    // The last window may be short: its global blocks move back into the sequence.
    const candidates = [wished];
    const last = Math.floor(blocks / local) * local;
    if (blocks % local !== 0) {
      candidates.pop();
      if (block < last && wished + global <= last) candidates.push(wished);
      candidates.push(Math.min(last + local - (turn + 1) * global, blocks - global));
    }
    return candidates.some((first) => first <= block && block < first + global);
  };
  const windowOf = (block: number) => {
    let start = 0;
    for (let i = 0; ; i++) {
      const sizes = values.local_window_blocks;
      const size = sizes[Math.min(i, sizes.length - 1)]!;
      if (block < start + size) return i;
      start += size;
    }
  };
  switch (values.mode) {
    case 'dense':
      return true;
    case 'fixed':
      return (
        Math.floor(r / local) === Math.floor(c / local) ||
        isGlobal(c) ||
        (horizontal && isGlobal(r))
      );
    case 'variable':
      return windowOf(r) === windowOf(c) || listed(c) || (horizontal && listed(r));
    case 'bigbird':
      return near || r < global || c < global;
    case 'bslongformer':
      return near || listed(r) || listed(c);
    case 'local':
      return near;
  }
}

/** Small deterministic choices: a linear congruential generator. */
function chooser(seed: number) {
  let state = seed >>> 0;
  return (from: number, to: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return from + Math.floor((state / 2 ** 32) * (to - from + 1));
  };
}

describe('every layout equals its definition', () => {
  it.each(['dense', 'fixed', 'variable', 'bigbird', 'bslongformer', 'local'] as const)(
    '%s',
    (mode) => {
      for (let seed = 0; seed < 60; seed++) {
        const choose = chooser(seed + 1000);
        const blocks = choose(8, 23);
        const global = choose(1, 3);
        const perWindow = choose(1, 4);
        const starts = [choose(0, 3), choose(4, 6)];
        const attention = choose(0, 1) === 0 ? 'unidirectional' : 'bidirectional';
        const different = choose(0, 1) === 1;
        const values = filled({
          mode,
          keys: {
            block: 16,
            attention,
            different_layout_per_head: different,
            num_global_blocks: global,
            num_local_blocks: global * perWindow,
            num_different_global_patterns: different ? choose(1, perWindow) : 1,
            horizontal_global_attention: attention === 'bidirectional' && choose(0, 1) === 1,
            local_window_blocks: Array.from({ length: choose(1, 3) }, () => choose(1, 4)),
            global_block_indices: starts,
            global_block_end_indices:
              choose(0, 1) === 0 ? null : starts.map((s) => s + choose(1, 2)),
            num_sliding_window_blocks: choose(1, 7),
            num_random_blocks: 0,
          },
        });
        const layout = sparsityConfig(values, 5).makeLayout(blocks * 16);
        const expected = Array.from({ length: 5 }, (_, head) =>
          Array.from({ length: blocks }, (_, r) =>
            Array.from({ length: blocks }, (_, c) =>
              attends(values, blocks, head, r, c) ? 1 : 0,
            ).join(''),
          ),
        );
        expect(textOf(layout), JSON.stringify(values)).toEqual(expected);
      }
    },
  );
});

describe('random blocks', () => {
  const config = (seed: number) =>
    new VariableSparsityConfig({
      num_heads: 3,
      num_random_blocks: 3,
      local_window_blocks: [1],
      global_block_indices: [0],
      different_layout_per_head: true,
      seed,
    });

  it('are a function of the seed', () => {
    const text = (seed: number) => textOf(config(seed).makeLayout(640));
    expect(text(7)).toEqual(text(7));
    expect(text(7)).not.toEqual(text(8));
  });

  it('hit every column equally often', () => {
    // 400 seeds, 20 columns, 3 draws a row without replacement: each column with probability 3/20.
    const hits = new Array<number>(20).fill(0);
    const draws = 400;
    for (let seed = 0; seed < draws; seed++) {
      const { heads } = new BigBirdSparsityConfig({
        num_heads: 1,
        num_random_blocks: 3,
        num_sliding_window_blocks: 1,
        seed,
      }).makeLayout(320);
      for (let c = 1; c < 20; c++) if (c !== 10) hits[c]! += heads[0]![10 * 20 + c]!;
    }
    const p = 3 / 20;
    const deviation = Math.sqrt(draws * p * (1 - p));
    for (const [c, count] of hits.entries()) {
      // Columns 0 (global) and 10 (band) are always there.
      if (c !== 0 && c !== 10) expect(Math.abs(count - draws * p)).toBeLessThan(4.5 * deviation);
    }
  });

  it('of a row with fewer columns than are drawn are all of them', () => {
    const { heads, blocks } = new BigBirdSparsityConfig({
      num_heads: 1,
      num_random_blocks: 4,
      attention: 'unidirectional',
    }).makeLayout(160);
    expect([...heads[0]!.subarray(2 * blocks, 3 * blocks)]).toEqual([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
  });
});

describe('what a layout cannot take', () => {
  it.each([
    ['block', () => new FixedSparsityConfig({ num_heads: 1 }).makeLayout(100), '100'],
    [
      'num_global_blocks',
      () => new FixedSparsityConfig({ num_heads: 1, num_global_blocks: 4 }).makeLayout(48),
      '3 blocks',
    ],
    [
      'num_random_blocks',
      () => new BigBirdSparsityConfig({ num_heads: 1, num_random_blocks: 9 }).makeLayout(128),
      '8 blocks',
    ],
    [
      'num_sliding_window_blocks',
      () => new LocalSlidingWindowSparsityConfig({ num_heads: 1 }).makeLayout(32),
      '2 blocks',
    ],
    [
      'global_block_indices',
      () => new VariableSparsityConfig({ num_heads: 1, global_block_indices: [8] }).makeLayout(128),
      'outside',
    ],
    [
      'global_block_end_indices',
      () =>
        new VariableSparsityConfig({
          num_heads: 1,
          global_block_indices: [6],
          global_block_end_indices: [9],
        }).makeLayout(128),
      'outside',
    ],
  ])('%s is named', (key, make, words) => {
    expect(make).toThrow(
      expect.objectContaining({
        code: 'LAYOUT_INVALID',
        message: expect.stringContaining(words),
        data: expect.objectContaining({ key }),
      }),
    );
  });

  it.each([
    ['block', { block: 24 }],
    ['num_global_blocks', { num_global_blocks: 3 }],
    ['num_different_global_patterns', { num_different_global_patterns: 2 }],
    [
      'num_different_global_patterns',
      { num_different_global_patterns: 5, different_layout_per_head: true },
    ],
    [
      'horizontal_global_attention',
      { horizontal_global_attention: true, attention: 'unidirectional' },
    ],
    ['num_local_block', { num_local_block: 4 }],
  ])('%s is refused when the class is made', (key, options) => {
    expect(() => new FixedSparsityConfig({ num_heads: 2, ...(options as object) })).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message: expect.stringContaining(`sparse_attention.${key}:`),
      }),
    );
  });

  it('a row that attends to nothing is named', () => {
    const bitmap = Uint8Array.from([1, 0, 1, 0, 0, 0, 1, 1, 1]);
    const layout = new BlockLayout(16, 3, [new Uint8Array(9).fill(1), bitmap]);
    expect(() => layout.requireAttendingRows({ causal: false })).toThrow(
      expect.objectContaining({
        code: 'LAYOUT_INVALID',
        message: expect.stringMatching(/head 1: block row 1 \(positions 16 to 31\)/),
      }),
    );
    const future = new BlockLayout(16, 2, [Uint8Array.from([0, 1, 1, 1])]);
    future.requireAttendingRows({ causal: false });
    expect(() => future.requireAttendingRows({ causal: true })).toThrow(/block row 0/);
  });
});

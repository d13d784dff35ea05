import { describe, expect, it } from 'vitest';
import type { DeepSpeedError } from '../errors.ts';
import { readConfig, readSparseAttention } from './index.ts';
import { nonDefaultKeysWithoutUse } from './sparsity-rules.ts';

const resolve = (values: Record<string, unknown>) => readSparseAttention(readConfig(values));

function refused(values: Record<string, unknown>): string[] {
  try {
    resolve(values);
  } catch (error) {
    const { data } = error as DeepSpeedError;
    return (data as { problems: { path: string }[] }).problems.map(({ path }) => path);
  }
  return [];
}

describe('sparse_attention', () => {
  it('is absent unless the file has it; its presence switches it on', () => {
    expect(resolve({})).toBeNull();
    expect(resolve({ sparse_attention: null })).toBeNull();
    expect(resolve({ sparse_attention: {} })).toMatchObject({
      mode: 'fixed',
      block: 16,
      num_local_blocks: 4,
      strict: true,
    });
  });

  it('takes the sample of the DeepSpeed documentation, which has the keys of all modes', () => {
    const values = resolve({
      sparse_attention: {
        mode: 'fixed',
        block: 16,
        different_layout_per_head: true,
        num_local_blocks: 4,
        num_global_blocks: 1,
        attention: 'bidirectional',
        horizontal_global_attention: false,
        num_different_global_patterns: 4,
        num_random_blocks: 0,
        local_window_blocks: [4],
        global_block_indices: [0],
        global_block_end_indices: null,
        num_sliding_window_blocks: 3,
      },
    });
    expect(values?.num_different_global_patterns).toBe(4);
    expect(nonDefaultKeysWithoutUse(values!)).toEqual([]);
  });

  it('knows which keys the mode does not read', () => {
    const values = resolve({
      sparse_attention: { mode: 'bigbird', num_local_blocks: 8, local_window_blocks: [2] },
    });
    expect(nonDefaultKeysWithoutUse(values!)).toEqual(['num_local_blocks', 'local_window_blocks']);
  });

  it.each([
    ['mode', { mode: 'sliding' }],
    ['block', { block: 48 }],
    ['attention', { attention: 'causal' }],
    ['global_block_indices', { mode: 'variable', global_block_indices: [-1] }],
    ['local_window_blocks', { mode: 'variable', local_window_blocks: [] }],
    ['num_global_blocks', { num_local_blocks: 4, num_global_blocks: 3 }],
    ['num_different_global_patterns', { num_different_global_patterns: 2 }],
    [
      'num_different_global_patterns',
      { different_layout_per_head: true, num_different_global_patterns: 5 },
    ],
    [
      'horizontal_global_attention',
      { attention: 'unidirectional', horizontal_global_attention: true },
    ],
    [
      'global_block_end_indices',
      { mode: 'variable', global_block_indices: [1, 2], global_block_end_indices: [2] },
    ],
    [
      'global_block_end_indices',
      { mode: 'bslongformer', global_block_indices: [3], global_block_end_indices: [3] },
    ],
  ])('%s is refused: %o', (key, section) => {
    expect(refused({ sparse_attention: section })).toEqual([`sparse_attention.${key}`]);
  });

  it('does not judge keys that the mode does not read', () => {
    expect(refused({ sparse_attention: { mode: 'bigbird', num_global_blocks: 3 } })).toEqual([]);
  });
});

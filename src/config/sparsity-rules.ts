/**
 * What the keys of `sparse_attention` exclude among themselves. The layout classes ask here, too, so that
 * a layout made in code and one made from a file are refused in the same words.
 */
import { type SparseAttentionValues, sparseAttention } from './sections/sparse-attention.ts';

export interface SparsityProblem {
  key: keyof SparseAttentionValues;
  expected: string;
}

type Mode = SparseAttentionValues['mode'];

/** The modes that read a key; keys that are not listed belong to all. */
const users: Partial<Record<keyof SparseAttentionValues, readonly Mode[]>> = {
  different_layout_per_head: ['fixed', 'variable', 'bigbird', 'bslongformer'],
  num_local_blocks: ['fixed'],
  num_global_blocks: ['fixed', 'bigbird'],
  attention: ['fixed', 'variable', 'bigbird', 'bslongformer', 'local'],
  horizontal_global_attention: ['fixed', 'variable'],
  num_different_global_patterns: ['fixed'],
  num_random_blocks: ['variable', 'bigbird'],
  local_window_blocks: ['variable'],
  global_block_indices: ['variable', 'bslongformer'],
  global_block_end_indices: ['variable', 'bslongformer'],
  num_sliding_window_blocks: ['bigbird', 'bslongformer', 'local'],
  seed: ['variable', 'bigbird'],
};

function isUsed(key: keyof SparseAttentionValues, mode: Mode): boolean {
  return users[key]?.includes(mode) ?? true;
}

/** Keys that are set and that the mode does not read. */
export function nonDefaultKeysWithoutUse(values: SparseAttentionValues): string[] {
  const keys = Object.keys(users) as (keyof SparseAttentionValues)[];
  return keys.filter((key) => {
    const written = JSON.stringify(values[key]);
    const standard = JSON.stringify(sparseAttention.keys[key].default);
    return written !== standard && !isUsed(key, values.mode);
  });
}

/** Rules that hold at any sequence length; what depends on it is checked when a layout is made. */
export function sparsityProblems(values: SparseAttentionValues): SparsityProblem[] {
  const { mode } = values;
  const problems: SparsityProblem[] = [];
  const refuse = (key: keyof SparseAttentionValues, expected: string) =>
    problems.push({ key, expected });
  if (mode === 'fixed') {
    const { num_local_blocks: local, num_global_blocks: global } = values;
    const patterns = values.num_different_global_patterns;
    if (local % global !== 0) {
      refuse('num_global_blocks', `${global} does not divide num_local_blocks ${local}`);
    } else if (patterns > local / global) {
      refuse(
        'num_different_global_patterns',
        `${patterns} is above num_local_blocks / num_global_blocks = ${local / global}: a window has no more choices`,
      );
    }
    if (patterns > 1 && !values.different_layout_per_head) {
      refuse(
        'num_different_global_patterns',
        `${patterns} patterns need different_layout_per_head: true`,
      );
    }
  }
  if (
    values.horizontal_global_attention &&
    values.attention === 'unidirectional' &&
    isUsed('horizontal_global_attention', mode)
  ) {
    refuse('horizontal_global_attention', 'needs attention "bidirectional"');
  }
  const { global_block_indices: starts, global_block_end_indices: ends } = values;
  if (ends !== null && isUsed('global_block_end_indices', mode)) {
    if (ends.length !== starts.length) {
      refuse(
        'global_block_end_indices',
        `${ends.length} ends for ${starts.length} global_block_indices; give one for each`,
      );
    } else {
      const empty = starts.findIndex((start, i) => ends[i]! <= start);
      if (empty >= 0) {
        refuse(
          'global_block_end_indices',
          `the range from ${starts[empty]} to ${ends[empty]} is empty; an end lies behind its start`,
        );
      }
    }
  }
  return problems;
}

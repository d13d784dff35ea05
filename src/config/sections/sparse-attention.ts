/** Which blocks of attention a model computes. */
import type { ValuesOf } from '../key.ts';
import {
  available,
  flag,
  oneOf,
  optionalSection,
  positiveInteger,
  positiveIntegers,
  wholeNumber,
  wholeNumbers,
} from '../key.ts';

const ours = { note: 'deepspeed-js only' };

export const sparseAttention = optionalSection(
  'Block-sparse attention. Absent: attention is dense.',
  {
    mode: available(
      oneOf('fixed', 'variable', 'bigbird', 'bslongformer', 'local', 'dense'),
      'fixed',
      'Which blocks of attention are computed; "local" cannot be reached from JSON in DeepSpeed.',
    ),
    block: available(oneOf(16, 32, 64, 128), 16, 'Rows and columns of a block.'),
    different_layout_per_head: available(
      flag,
      false,
      'Heads may differ in their global and random blocks; false: all have the layout of the first.',
    ),
    num_local_blocks: available(positiveInteger, 4, 'fixed: blocks of a local window.'),
    num_global_blocks: available(
      positiveInteger,
      1,
      'fixed: blocks of each window that all attend to; bigbird: first blocks that are global.',
    ),
    attention: available(
      oneOf('unidirectional', 'bidirectional'),
      null,
      'Whether blocks above the diagonal exist; null: bidirectional, and unidirectional for "local".',
    ),
    horizontal_global_attention: available(
      flag,
      false,
      'fixed, variable: global blocks also attend to all. Bidirectional only.',
    ),
    num_different_global_patterns: available(
      positiveInteger,
      1,
      'fixed: heads take turns with this many choices of global blocks.',
    ),
    num_random_blocks: available(
      wholeNumber,
      0,
      'variable, bigbird: random blocks of each row of blocks.',
    ),
    local_window_blocks: available(
      positiveIntegers,
      [4] as number[],
      'variable: blocks of the first, second, ... local window; the last repeats.',
    ),
    global_block_indices: available(
      wholeNumbers,
      [0] as number[],
      'variable, bslongformer: global blocks, or the first ones of ranges.',
    ),
    global_block_end_indices: available(
      positiveIntegers,
      null,
      'variable, bslongformer: ends (exclusive) of the ranges that start at global_block_indices.',
    ),
    num_sliding_window_blocks: available(
      positiveInteger,
      3,
      'bigbird, bslongformer, local: blocks of the band around the diagonal.',
    ),
    max_seq_length: available(
      positiveInteger,
      null,
      'Positions that the layout is made for; shorter sequences have its corner. null: the longest of the model, at most 16384; 2048 where it has none.',
      { note: "an argument of DeepSpeed's SparseSelfAttention there" },
    ),
    seed: available(wholeNumber, 1234, 'Decides the random blocks.', ours),
    strict: available(
      flag,
      true,
      'Stop when an attention of the model cannot be replaced; false: it stays dense.',
      ours,
    ),
  },
);

export const sparseAttentionKeys = { sparse_attention: sparseAttention };

/** The section `sparse_attention` with every key filled. */
export type SparseAttentionValues = ValuesOf<typeof sparseAttention.keys>;

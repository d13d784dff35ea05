import type { SparseAttentionValues } from '../../config/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import { requireCapability, type SelfAttention } from '../../hooks/index.ts';
import type { StrategyContext } from '../plugin.ts';
import type { BlockLayout } from './block-layout.ts';
import { RunLayouts } from './run-layouts.ts';
import { misfit } from './sparsity-config.ts';

/**
 * `sparse_attention`: the self-attention of the host's model computes the blocks of a layout alone, one
 * layout for all layers. What a causal model hides stays hidden inside of blocks.
 */
export function applySparseAttention(
  context: StrategyContext,
  values: SparseAttentionValues,
): void {
  const { host, lifecycle, communicator } = context;
  requireCapability(host, 'attentionReplacement', 'sparse_attention');
  const layouts = new RunLayouts(values, host.longestSequence);
  const { replaced, dense } = host.replaceAttention!((attention) => {
    requirePaddedBlocks(attention, values.block);
    const { layout } = layouts.of(attention);
    layout.requireAttendingRows(attention);
    return layout;
  });
  if (replaced.length + dense.length === 0) {
    throw new DeepSpeedError(
      'ATTENTION_NOT_REPLACED',
      'sparse_attention: the model has no attention',
      { fix: 'Remove the section.' },
    );
  }
  if (dense.length > 0 && values.strict) {
    throw new DeepSpeedError(
      'ATTENTION_NOT_REPLACED',
      `sparse_attention: ${dense.length} of ${replaced.length + dense.length} attentions cannot be replaced:\n${dense.map((line) => `  - ${line}`).join('\n')}`,
      { data: { dense } },
    );
  }
  lifecycle.tap('setup', 'observe', 'sparseAttention.report', async () => {
    if (communicator.rank !== 0) return;
    for (const line of reportLines(replaced, dense, values, layouts)) console.log(line);
  });
}

function requirePaddedBlocks({ length, longest = length }: SelfAttention, block: number): void {
  if (longest === length || length % block === 0) return;
  throw misfit(
    'block',
    `${block} does not divide the length of the batches: samples have up to ${longest} positions, padded to ${length}`,
    `Leave the Trainer's padToMultipleOf out, or set it to ${block}, and use a model whose longest sequence ${block} divides.`,
  );
}

/** One line for each kind of attention that was replaced, one for each that was not. */
function reportLines(
  replaced: readonly SelfAttention[],
  dense: readonly string[],
  values: SparseAttentionValues,
  layouts: RunLayouts,
): string[] {
  const kinds = new Map<string, { attention: SelfAttention; count: number }>();
  for (const attention of replaced) {
    const key = JSON.stringify(attention);
    const kind = kinds.get(key) ?? { attention, count: 0 };
    kind.count += 1;
    kinds.set(key, kind);
  }
  return [
    ...[...kinds.values()].map(({ attention, count }) => {
      const { heads, length, causal } = attention;
      const { layout, whole } = layouts.of(attention);
      const share = shareOf(layout, causal);
      const origin = layout === whole ? '' : `, the first of ${whole.sequenceLength}`;
      return `sparse_attention: ${values.mode}, block ${values.block}, in ${count} of ${replaced.length + dense.length} attentions of ${heads} heads over ${length} positions${origin}: ${share} of the${causal ? ' causal' : ''} blocks`;
    }),
    ...dense.map((line) => `sparse_attention: stays dense: ${line}`),
  ];
}

function shareOf(layout: BlockLayout, causal: boolean): string {
  const { blocks, heads } = layout;
  const all = heads.length * (causal ? (blocks * (blocks + 1)) / 2 : blocks * blocks);
  return `${((100 * layout.count({ causal })) / all).toFixed(1)}%`;
}

import type { SparseAttentionValues } from '../../config/index.ts';
import type { SelfAttention } from '../../hooks/index.ts';
import type { BlockLayout } from './block-layout.ts';
import { misfit, type SparsityConfig, sparsityConfig } from './sparsity-config.ts';

/** DeepSpeed's own default, for models that do not say how long their sequences may be. */
const usualLength = 2048;

/** Of models that do: beyond it the matrices of blocks would take more than a megabyte a head. */
const mostLength = 16_384;

/** The longest sequence of a model; "fixed": all have the length at hand; undefined: nobody knows. */
export type ModelLength = number | 'fixed' | undefined;

/**
 * The layouts of a run: one is made for the longest sequence and cut to each length at hand. A row attends to the same
 * blocks at any length, so what a sample computes depends neither on its batch-mates nor on the number of ranks.
 */
export class RunLayouts {
  readonly #values: SparseAttentionValues;
  readonly #longest: ModelLength;
  /** By heads and length. */
  readonly #wholes = new Map<string, BlockLayout>();

  constructor(values: SparseAttentionValues, longest: ModelLength) {
    this.#values = values;
    this.#longest = longest;
  }

  /**
   * @throws LAYOUT_INVALID naming the key that does not fit: `block` where it does not divide the length,
   *   `max_seq_length` where the length is above it, others that the longest sequence is too short for
   */
  of({ heads, length }: Pick<SelfAttention, 'heads' | 'length'>): {
    layout: BlockLayout;
    /** What it is cut from; itself at the longest length. */
    whole: BlockLayout;
  } {
    const config = sparsityConfig(this.#values, heads);
    config.requireWholeBlocks(length);
    const whole = this.#whole(config, length);
    if (length > whole.sequenceLength) {
      throw misfit(
        'max_seq_length',
        `sequences of ${length} positions, and the layout is made for ${whole.sequenceLength}`,
        `Set sparse_attention.max_seq_length to ${length} or more, the longest that any sample, prompt or evaluation has. Or cut samples to ${whole.sequenceLength}.`,
      );
    }
    const layout = length === whole.sequenceLength ? whole : whole.cut(length / config.block);
    return { layout, whole };
  }

  #whole(config: SparsityConfig, length: number): BlockLayout {
    const { block } = config;
    const positions = Math.ceil(this.#longestOf(length) / block) * block;
    const key = `${config.num_heads} ${positions}`;
    const whole = this.#wholes.get(key) ?? config.makeLayout(positions);
    this.#wholes.set(key, whole);
    return whole;
  }

  #longestOf(length: number): number {
    const longest = this.#longest;
    const own = longest === 'fixed' ? length : Math.min(longest ?? usualLength, mostLength);
    return this.#values.max_seq_length ?? own;
  }
}

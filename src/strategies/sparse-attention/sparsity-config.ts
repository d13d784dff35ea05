/**
 * DeepSpeed's layout classes (`deepspeed.ops.sparse_attention`): fixed (Child et al., "Generating Long
 * Sequences with Sparse Transformers", 1904.10509), variable, BigBird (Zaheer et al., 2007.14062, internal
 * transformer construction), block-sparse Longformer (Beltagy et al., 2004.05150), local sliding window and
 * dense. Options are the keys of the config section `sparse_attention`.
 *
 * Two differences from DeepSpeed: a unidirectional layout never has a block above the diagonal (there,
 * random blocks of `variable` and global blocks in a row of several have some), and random blocks are a
 * function of `seed`.
 */
import {
  type SparseAttentionValues,
  sparseAttention,
  sparsityProblems,
} from '../../config/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import { BlockLayout } from './block-layout.ts';
import { Canvas } from './patterns.ts';

type Options<K extends keyof SparseAttentionValues> = { num_heads: number } & Partial<
  Pick<SparseAttentionValues, 'block' | K>
>;

/** What all layout classes have: a kind of layout, for any sequence length. */
export abstract class SparsityConfig {
  readonly num_heads: number;
  /** All keys of the section; a class reads its own. */
  protected readonly values: SparseAttentionValues;

  /** @throws CONFIG_INVALID naming the keys that exclude each other */
  constructor(options: { num_heads: number } & Partial<SparseAttentionValues>) {
    const { num_heads, ...values } = options;
    if (!Number.isInteger(num_heads) || num_heads < 1) {
      throw new DeepSpeedError('CONFIG_INVALID', `num_heads got ${num_heads}, expected 1 or more`);
    }
    this.num_heads = num_heads;
    this.values = checkedValues(values);
  }

  get block(): number {
    return this.values.block;
  }

  /**
   * The layout for sequences of this many positions.
   *
   * @throws LAYOUT_INVALID naming the key that does not fit the length
   */
  makeLayout(sequenceLength: number): BlockLayout {
    const { block, different_layout_per_head: different } = this.values;
    this.requireWholeBlocks(sequenceLength);
    const blocks = sequenceLength / block;
    const unmet = this.demands().find((demand) => demand.blocks > blocks);
    if (unmet) throw misfit(unmet.key, unmet.problem(blocks));
    const drawn = new Map<number, Uint8Array>();
    const heads = Array.from({ length: this.num_heads }, (_, head) => {
      const pattern = different ? this.patternOf(head) : 0;
      const bitmap = drawn.get(pattern) ?? this.drawWhole(blocks, pattern);
      drawn.set(pattern, bitmap);
      return bitmap;
    });
    return new BlockLayout(block, blocks, heads);
  }

  /** @throws LAYOUT_INVALID where the block does not divide the length */
  requireWholeBlocks(sequenceLength: number): void {
    const { block } = this.values;
    if (sequenceLength >= 1 && sequenceLength % block === 0) return;
    throw misfit(
      'block',
      `${block} does not divide the sequence length ${sequenceLength}; padToBlockSize lengthens samples, padToMultipleOf batches`,
    );
  }

  protected get unidirectional(): boolean {
    return this.values.attention === 'unidirectional';
  }

  /** Heads with the same number have the same layout. */
  protected patternOf(_head: number): number {
    return 0;
  }

  /** What keys ask of a sequence, those first that are told first. */
  protected demands(): readonly Demand[] {
    return [];
  }

  /** Draws a head's layout; what lies above the diagonal is removed afterwards where it must. */
  protected abstract draw(canvas: Canvas, pattern: number): void;

  private drawWhole(blocks: number, pattern: number): Uint8Array {
    const canvas = new Canvas(blocks);
    this.draw(canvas, pattern);
    if (this.unidirectional) canvas.lowerTriangle();
    return canvas.bitmap;
  }
}

/** Every block: for comparison. */
export class DenseSparsityConfig extends SparsityConfig {
  constructor(options: Options<never>) {
    super({ ...options, mode: 'dense' });
  }

  protected override draw(canvas: Canvas): void {
    canvas.rows([0, canvas.blocks]);
  }
}

/** Windows that do not overlap, and of each window some blocks that all attend to. */
export class FixedSparsityConfig extends SparsityConfig {
  constructor(
    options: Options<
      | 'different_layout_per_head'
      | 'num_local_blocks'
      | 'num_global_blocks'
      | 'attention'
      | 'horizontal_global_attention'
      | 'num_different_global_patterns'
    >,
  ) {
    super({ ...options, mode: 'fixed' });
  }

  protected override patternOf(head: number): number {
    return head % this.values.num_different_global_patterns;
  }

  protected override demands(): readonly Demand[] {
    return counts(this.values, 'num_global_blocks');
  }

  /** Pattern 0 has the last blocks of a window as its global ones, pattern 1 those before, ... */
  protected override draw(canvas: Canvas, pattern: number): void {
    const { num_local_blocks: local, num_global_blocks: global } = this.values;
    canvas.windows([local]);
    const first = local - (1 + pattern) * global;
    for (let window = 0; window < canvas.blocks; window += local) {
      // A short last window may end before its global blocks would begin.
      const short = window + local > canvas.blocks;
      const start = short ? Math.min(window + first, canvas.blocks - global) : window + first;
      canvas.columns([start, start + global]);
      if (this.values.horizontal_global_attention) canvas.rows([start, start + global]);
    }
  }
}

/** Fixed with windows of several sizes, global blocks by index, and random blocks. */
export class VariableSparsityConfig extends SparsityConfig {
  constructor(
    options: Options<
      | 'different_layout_per_head'
      | 'num_random_blocks'
      | 'local_window_blocks'
      | 'global_block_indices'
      | 'global_block_end_indices'
      | 'attention'
      | 'horizontal_global_attention'
      | 'seed'
    >,
  ) {
    super({ ...options, mode: 'variable' });
  }

  protected override patternOf(head: number): number {
    return this.values.num_random_blocks > 0 ? head : 0;
  }

  protected override demands(): readonly Demand[] {
    return [...counts(this.values, 'num_random_blocks'), ...globals(this.values)];
  }

  protected override draw(canvas: Canvas, pattern: number): void {
    const { num_random_blocks: random, seed, local_window_blocks: windows } = this.values;
    canvas.random(random, seed, pattern, this.unidirectional);
    canvas.windows(windows);
    for (const range of globalRanges(this.values)) {
      canvas.columns(range);
      if (this.values.horizontal_global_attention) canvas.rows(range);
    }
  }
}

/** A band around the diagonal, the first blocks as global ones, and random blocks. */
export class BigBirdSparsityConfig extends SparsityConfig {
  /** `num_random_blocks` is 1 where it is not given, as in DeepSpeed's class; a config file's default is 0. */
  constructor(
    options: Options<
      | 'different_layout_per_head'
      | 'num_random_blocks'
      | 'num_sliding_window_blocks'
      | 'num_global_blocks'
      | 'attention'
      | 'seed'
    >,
  ) {
    super({ num_random_blocks: 1, ...options, mode: 'bigbird' });
  }

  protected override patternOf(head: number): number {
    return this.values.num_random_blocks > 0 ? head : 0;
  }

  protected override demands(): readonly Demand[] {
    return counts(
      this.values,
      'num_random_blocks',
      'num_sliding_window_blocks',
      'num_global_blocks',
    );
  }

  protected override draw(canvas: Canvas, pattern: number): void {
    const { num_random_blocks: random, seed, num_global_blocks: global } = this.values;
    canvas.random(random, seed, pattern, this.unidirectional);
    canvas.band(bandReach(this.values));
    canvas.rows([0, global]);
    canvas.columns([0, global]);
  }
}

/** A band around the diagonal, and global blocks by index. */
export class BSLongformerSparsityConfig extends SparsityConfig {
  constructor(
    options: Options<
      | 'different_layout_per_head'
      | 'num_sliding_window_blocks'
      | 'global_block_indices'
      | 'global_block_end_indices'
      | 'attention'
    >,
  ) {
    super({ ...options, mode: 'bslongformer' });
  }

  protected override demands(): readonly Demand[] {
    return [...counts(this.values, 'num_sliding_window_blocks'), ...globals(this.values)];
  }

  protected override draw(canvas: Canvas): void {
    canvas.band(bandReach(this.values));
    for (const range of globalRanges(this.values)) {
      canvas.rows(range);
      canvas.columns(range);
    }
  }
}

/** A band around the diagonal, or, unidirectional (the default), below it. */
export class LocalSlidingWindowSparsityConfig extends SparsityConfig {
  constructor(options: Options<'num_sliding_window_blocks' | 'attention'>) {
    super({ ...options, attention: options.attention ?? 'unidirectional', mode: 'local' });
  }

  protected override demands(): readonly Demand[] {
    return counts(this.values, 'num_sliding_window_blocks');
  }

  protected override draw(canvas: Canvas): void {
    canvas.band(bandReach(this.values));
  }
}

const classes = {
  dense: DenseSparsityConfig,
  fixed: FixedSparsityConfig,
  variable: VariableSparsityConfig,
  bigbird: BigBirdSparsityConfig,
  bslongformer: BSLongformerSparsityConfig,
  local: LocalSlidingWindowSparsityConfig,
};

/** The layout class of a config section. */
export function sparsityConfig(values: SparseAttentionValues, heads: number): SparsityConfig {
  return new classes[values.mode]({ ...values, num_heads: heads });
}

/** Blocks on each side of the diagonal: an even window loses one, as in DeepSpeed. */
function bandReach({ num_sliding_window_blocks: window }: SparseAttentionValues): number {
  return Math.floor(window / 2);
}

function globalRanges(values: SparseAttentionValues): [number, number][] {
  const { global_block_indices: starts, global_block_end_indices: ends } = values;
  return starts.map((start, i) => [start, ends?.[i] ?? start + 1]);
}

/** How many blocks a row must have for a key to make sense. */
interface Demand {
  key: keyof SparseAttentionValues;
  blocks: number;
  /** What is wrong where it has fewer. */
  problem(blocks: number): string;
}

function counts(
  values: SparseAttentionValues,
  ...keys: ('num_global_blocks' | 'num_random_blocks' | 'num_sliding_window_blocks')[]
): Demand[] {
  return keys.map((key) => ({
    key,
    blocks: values[key],
    problem: (blocks) => `${values[key]} is above the ${blocks} blocks of a row`,
  }));
}

function globals(values: SparseAttentionValues): Demand[] {
  const inside = (key: Demand['key'], value: number, blocks: number): Demand => ({
    key,
    blocks,
    problem: (given) => `${value} lies outside the ${given} blocks of the sequence`,
  });
  return globalRanges(values).flatMap(([start, end]) => [
    inside('global_block_indices', start, start + 1),
    inside('global_block_end_indices', end, end),
  ]);
}

/** A key that does not fit a length. */
export function misfit(
  key: keyof SparseAttentionValues,
  what: string,
  fix?: string,
): DeepSpeedError {
  return new DeepSpeedError('LAYOUT_INVALID', `sparse_attention.${key}: ${what}`, {
    ...(fix !== undefined && { fix }),
    data: { key },
  });
}

/** Fills, and checks as a config file would be. */
function checkedValues(given: Partial<SparseAttentionValues>): SparseAttentionValues {
  const { keys } = sparseAttention;
  const values: Record<string, unknown> = {};
  for (const [name, key] of Object.entries(keys)) {
    const value = given[name as keyof SparseAttentionValues];
    values[name] = value === undefined ? key.default : value;
    if (key.schema.safeParse(values[name]).success) continue;
    throw invalid(name, `got ${JSON.stringify(values[name])}, expected ${key.expects}`);
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(keys, name));
  if (unknown !== undefined) throw invalid(unknown, 'no such key');
  const checked = values as SparseAttentionValues;
  const [problem] = sparsityProblems(checked);
  if (problem) throw invalid(problem.key, problem.expected);
  return checked;
}

function invalid(key: string, what: string): DeepSpeedError {
  return new DeepSpeedError('CONFIG_INVALID', `sparse_attention.${key}: ${what}`, {
    fix: 'Change the key named.',
    data: { key },
  });
}

import { DeepSpeedError } from '../../errors.ts';
import type { ReducedGradient } from '../../hooks/index.ts';
import { groupRanges, type Shard, tensorRanges } from '../../layout.ts';
import type { NativeBuffer, OptimizerRange, Region, Work } from '../../native/contract.ts';
import type { MemoryWeights } from '../precision/weights.ts';
import { inMemory, type HeldPart } from '../held.ts';
import { stateCount } from './recipe.ts';
import {
  ShardOptimizer,
  type ShardOptimizerOptions,
  type StepSettings,
} from './shard-optimizer.ts';

export { type OptimizerRecipe, stateCount } from './recipe.ts';

export interface PartitionedOptimizerOptions extends ShardOptimizerOptions {
  weights: MemoryWeights;
  /** Stage 1 and above: this rank keeps and updates its shard only. */
  partitioned: boolean;
}

/** Everything in memory: one update of all that this rank has. */
export class PartitionedOptimizer extends ShardOptimizer {
  readonly weights: MemoryWeights;
  /** The elements of the flat buffer whose states are here. */
  readonly updated: Shard;
  /** Optimizer states of `updated`, fp32; fewer than two for some kinds. */
  readonly states: readonly NativeBuffer[];
  readonly stored: readonly HeldPart[][];
  readonly #engine: PartitionedOptimizerOptions['engine'];
  readonly #partitioned: boolean;
  readonly #ranges: OptimizerRange[];

  constructor(options: PartitionedOptimizerOptions) {
    super(options);
    const { engine, layout, rank, recipe, partitioned, weights } = options;
    this.weights = weights;
    this.#engine = engine;
    this.#partitioned = partitioned;
    this.updated = partitioned ? layout.shards[rank]! : { offset: 0, count: layout.total };
    this.#ranges = partitioned ? this.ownRanges : groupRanges(layout, this.updated);
    if (recipe.kind === 'lamb' || recipe.kind === 'onebit_lamb') {
      if (partitioned)
        throw new DeepSpeedError('INTERNAL', 'internal: LAMB under ZeRO 1, which rules refuse');
      this.#ranges = tensorRanges(layout);
    }
    this.states = Array.from({ length: stateCount(recipe) }, (_, index) =>
      engine.allocate(this.updated.count * 4, {
        category: 'optimizer',
        name: `optimizer state ${index + 1}`,
      }),
    );
    this.stored = this.states.map((buffer) => [inMemory(buffer, this.updated)]);
  }

  protected update(
    step: StepSettings,
    { shard, whole }: Omit<ReducedGradient, 'after'>,
    after: Work[],
  ): Work {
    const { master, copy16 } = this.weights;
    const [state1, state2, state3] = this.states.map((buffer) => this.#region(buffer));
    return this.#engine.optimizerStep(
      {
        ...step,
        master,
        ...(copy16 && { copy16 }),
        gradient: (this.#partitioned ? shard : whole)!,
        ...(state1 && { state1 }),
        ...(state2 && { state2 }),
        ...(state3 && { state3 }),
        ranges: this.#ranges,
      },
      after,
    );
  }

  #region(buffer: NativeBuffer): Region {
    return { buffer, byteOffset: 0, count: this.updated.count, dtype: 'float32' };
  }
}

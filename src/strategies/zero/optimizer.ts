import { DeepSpeedError } from '../../errors.ts';
import type { ReducedGradient } from '../../hooks/index.ts';
import { groupRanges, type Shard, tensorRanges } from '../../layout.ts';
import type { NativeBuffer, OptimizerRange, Region, Work } from '../../native/contract.ts';
import { rangesWithin } from '../offload/sub-groups.ts';
import type { MemoryWeights } from '../precision/weights.ts';
import { stretchOf } from '../precision/wire.ts';
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
  readonly #beingSaved: PartitionedOptimizerOptions['beingSaved'];
  readonly #partitioned: boolean;
  /** Its ranges are tensors, which cannot be divided. */
  readonly #wholeTensors: boolean;
  readonly #ranges: OptimizerRange[];

  constructor(options: PartitionedOptimizerOptions) {
    super(options);
    const { engine, layout, rank, recipe, partitioned, weights, beingSaved } = options;
    this.weights = weights;
    this.#engine = engine;
    this.#beingSaved = beingSaved;
    this.#partitioned = partitioned;
    this.updated = partitioned ? layout.shards[rank]! : { offset: 0, count: layout.total };
    this.#ranges = partitioned ? this.ownRanges : groupRanges(layout, this.updated);
    this.#wholeTensors = recipe.kind === 'lamb' || recipe.kind === 'onebit_lamb';
    if (this.#wholeTensors) {
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
    const gradient = (this.#partitioned ? shard : whole)!;
    const parts = this.#wholeTensors
      ? [{ range: this.updated, after: this.#beingSaved.before(this.updated) }]
      : this.#beingSaved.divide(this.updated);
    // Each after the one before, so that what fails anywhere fails the last.
    let last = [...after, ...this.#beingSaved.local];
    for (const part of parts) {
      last = [this.#updatePart(step, gradient, part.range, [...last, ...part.after])];
    }
    return last[0]!;
  }

  /** Parts share nothing but the norm: the bits are those of one update of the whole. */
  #updatePart(step: StepSettings, gradient: Region, range: Shard, after: Work[]): Work {
    const part = { offset: range.offset - this.updated.offset, count: range.count };
    const { master, copy16 } = this.weights;
    const [state1, state2, state3] = this.states.map((buffer) =>
      stretchOf({ buffer, byteOffset: 0, count: this.updated.count, dtype: 'float32' }, part),
    );
    return this.#engine.optimizerStep(
      {
        ...step,
        master: stretchOf(master, part),
        ...(copy16 && { copy16: stretchOf(copy16, part) }),
        gradient: stretchOf(gradient, part),
        ...(state1 && { state1 }),
        ...(state2 && { state2 }),
        ...(state3 && { state3 }),
        ranges: rangesWithin(this.#ranges, part),
      },
      after,
    );
  }
}

import type { ReducedGradient } from '../../hooks/index.ts';
import type { Work } from '../../native/contract.ts';
import type { Weights } from '../precision/weights.ts';
import type { HeldPart } from '../held.ts';
import {
  ShardOptimizer,
  type ShardOptimizerOptions,
  type StepSettings,
} from '../zero/shard-optimizer.ts';
import { heldSplit } from './offload.ts';
import type { SwappedUpdate } from './swapped-update.ts';

export interface OffloadedOptimizerOptions extends ShardOptimizerOptions {
  weights: Weights;
  swapped: SwappedUpdate;
}

/** The optimizer of a shard that is partly on disk. */
export class OffloadedOptimizer extends ShardOptimizer {
  readonly weights: Weights;
  readonly #options: OffloadedOptimizerOptions;

  constructor(options: OffloadedOptimizerOptions) {
    super(options);
    this.#options = options;
    this.weights = options.weights;
  }

  get stored(): HeldPart[][] {
    const { swapped, layout, rank } = this.#options;
    const shard = layout.shards[rank]!;
    return swapped.tensors.states.map((state) => heldSplit(state, shard));
  }

  protected update(
    step: StepSettings,
    { shard }: Pick<ReducedGradient, 'shard'>,
    after: Work[],
  ): Work {
    const { swapped, gradients, layout, rank, beingSaved } = this.#options;
    const { offset: first } = layout.shards[rank]!;
    const gradient = shard ? { head: shard } : gradients.swapped!.split;
    return swapped.update(step, gradient, after, ({ offset, count }) =>
      beingSaved.before({ offset: first + offset, count }),
    );
  }
}

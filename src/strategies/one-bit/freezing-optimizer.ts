import type { OptimizerOutcome, OptimizerStepContext } from '../../hooks/index.ts';
import type { OptimizerHyper, Work } from '../../native/contract.ts';
import type { Weights } from '../precision/weights.ts';
import type { LocalState } from '../local-state.ts';
import { CompressedMomentum, type CompressedMomentumOptions } from './compressed-momentum.ts';
import type { CompressingOptimizer } from './compressing-optimizer.ts';

/** How an optimizer steps before and after its second moments freeze. */
export interface FreezingSteps {
  /** What a rank has besides the errors of compression. */
  readonly local?: readonly LocalState[];
  dense(context: OptimizerStepContext): Work;
  /** Step number `step` of the optimizer. */
  compressed(step: number, groups: OptimizerHyper[]): Work;
}

/** Dense for some steps; after that second moments are constant and the momentum travels in one bit an element. */
export class FreezingOptimizer implements CompressingOptimizer {
  readonly #options: CompressedMomentumOptions;
  readonly #freezeStep: number;
  readonly #compressed: CompressedMomentum;
  readonly #steps: FreezingSteps;
  readonly weights: Weights;
  readonly local: readonly LocalState[];
  #wasCompressed = false;

  /** @param freezeStep dense steps, at least 1, since there must be second moments */
  constructor(
    options: CompressedMomentumOptions,
    freezeStep: number,
    stepsOf: (compressed: CompressedMomentum) => FreezingSteps,
  ) {
    this.#options = options;
    this.#freezeStep = freezeStep;
    this.#compressed = new CompressedMomentum(options);
    this.#steps = stepsOf(this.#compressed);
    this.weights = options.dense.weights;
    this.local = [...this.#compressed.mean.errors, ...(this.#steps.local ?? [])];
  }

  get keepsGradient(): boolean {
    return this.#options.dense.step >= this.#freezeStep;
  }

  enqueue(context: OptimizerStepContext): Work {
    this.#wasCompressed = this.keepsGradient;
    if (!this.#wasCompressed) return this.#steps.dense(context);
    const step = this.#options.dense.step + 1;
    return this.#steps.compressed(step, this.#compressed.groups(context, step, this.#freezeStep));
  }

  outcome(): OptimizerOutcome {
    return this.#wasCompressed ? this.#compressed.outcome() : this.#options.dense.outcome();
  }
}

import type { OptimizerOutcome, OptimizerStepContext } from '../../hooks/index.ts';
import type { Work } from '../../native/contract.ts';
import type { Weights } from '../precision/weights.ts';
import type { LocalState } from '../zero/index.ts';
import { CompressedMomentum, type CompressedMomentumOptions } from './compressed-momentum.ts';
import type { CompressingOptimizer } from './index.ts';

/**
 * 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm 1). For `freezeStep` steps it is AdamW on averaged
 * gradients. After that the second moment is constant and the momentum travels. Bias correction is Adam's
 * own; DeepSpeed's accepts `bias_correction` and never applies it.
 */
export class OneBitAdam implements CompressingOptimizer {
  readonly #options: CompressedMomentumOptions;
  readonly #freezeStep: number;
  readonly #compressed: CompressedMomentum;
  readonly weights: Weights;
  #wasCompressed = false;

  /** @param freezeStep dense steps; 0 is taken as 1, since there must be second moments */
  constructor(options: CompressedMomentumOptions, freezeStep: number) {
    this.#options = options;
    this.#freezeStep = Math.max(1, freezeStep);
    this.#compressed = new CompressedMomentum(options);
    this.weights = options.dense.weights;
  }

  get local(): readonly LocalState[] {
    return this.#compressed.mean.errors;
  }

  get keepsGradient(): boolean {
    return this.#options.dense.step >= this.#freezeStep;
  }

  enqueue(context: OptimizerStepContext): Work {
    const { dense } = this.#options;
    this.#wasCompressed = this.keepsGradient;
    if (!this.#wasCompressed) return dense.enqueue(context);
    const step = dense.step + 1;
    const groups = this.#compressed.groups(context, step, this.#freezeStep);
    return this.#compressed.enqueue(step, groups);
  }

  outcome(): OptimizerOutcome {
    return this.#wasCompressed ? this.#compressed.outcome() : this.#options.dense.outcome();
  }
}

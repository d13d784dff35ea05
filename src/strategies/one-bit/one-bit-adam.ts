import type { CompressedMomentumOptions } from './compressed-momentum.ts';
import { FreezingOptimizer } from './freezing-optimizer.ts';

/**
 * 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm 1). For `freezeStep` steps it is AdamW on averaged
 * gradients. After that the second moment is constant and the momentum travels. Bias correction is Adam's
 * own; DeepSpeed's accepts `bias_correction` and never applies it.
 */
export function createOneBitAdam(
  options: CompressedMomentumOptions,
  freezeStep: number,
): FreezingOptimizer {
  return new FreezingOptimizer(options, freezeStep, (compressed) => ({
    dense: (context) => options.dense.enqueue(context),
    compressed: (step, groups) => compressed.enqueue(step, groups),
  }));
}

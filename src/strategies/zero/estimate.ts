import type { OptimizerRecipe } from './optimizer.ts';
import { stateCount } from './optimizer.ts';
import type { ZeroStage } from './index.ts';

/** Bytes that a rank holds all the time, by category. fp32. */
export interface ZeroBytes {
  parameters: number;
  gradients: number;
  optimizer: number;
}

/**
 * The memory formulas of ZeRO (1910.02054, section 3) for fp32 training, with Ψ elements on N ranks and
 * K optimizer states: stage 0 4Ψ + 4Ψ + 4KΨ; stage 1 4Ψ + 4Ψ + 4KΨ/N; stage 2 4Ψ + 4Ψ/N + 4KΨ/N. The
 * windows of stage 2 and activations come on top.
 */
export function zeroBytes(
  stage: ZeroStage,
  elements: number,
  ranks: number,
  recipe: OptimizerRecipe,
): ZeroBytes {
  const whole = 4 * elements;
  return {
    parameters: whole,
    gradients: stage === 2 ? whole / ranks : whole,
    optimizer: (stateCount(recipe) * whole) / (stage === 0 ? 1 : ranks),
  };
}

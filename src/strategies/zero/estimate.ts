import type { DeepSpeedConfig } from '../../config/index.ts';
import { fullPrecision, type Precision } from '../precision/precision.ts';
import type { ZeroStage } from './index.ts';
import { type OptimizerRecipe, stateCount } from './optimizer.ts';

/**
 * Whether every rank keeps whole gradients between micro batches: stages 0 and 1 do, and stage 2 when it
 * is asked to communicate only at the accumulation boundary. Without accumulation there is nothing to keep.
 */
export function keepsWholeGradients(config: DeepSpeedConfig): boolean {
  const { stage, reduce_at_boundary: atBoundary } = config.zero_optimization;
  return stage < 2 || (atBoundary && config.gradient_accumulation_steps > 1);
}

/** Bytes that a rank holds all the time, by category of the memory account. */
export interface ZeroBytes {
  parameters: number;
  gradients: number;
  optimizer: number;
  /** 16-bit storage: fp32 weights of the optimizer, and the fp32 window that the model reads. */
  master: number;
  window: number;
  /** 16-bit copies of gradients for the wire. */
  communication: number;
}

/**
 * The memory formulas of ZeRO (1910.02054, section 3) with Ψ elements on N ranks and K optimizer states.
 * fp32: stage 0 4Ψ + 4Ψ + 4KΨ; stage 1 4Ψ + 4Ψ + 4KΨ/N; stage 2 4Ψ + 4Ψ/N + 4KΨ/N. 16-bit storage
 * replaces the first 4Ψ by 2Ψ + 4Ψ (window) + 4Ψ (master; 4Ψ/N from stage 1 on). Gradients that travel
 * in 16 bits need 2Ψ more at stages 0 and 1. The gradient windows of stage 2 and activations come on top.
 *
 * @param wholeGradients stage 2 that keeps them, see keepsWholeGradients: 4Ψ (and 2Ψ) as at stage 1
 */
export function zeroBytes(
  stage: ZeroStage,
  elements: number,
  ranks: number,
  recipe: OptimizerRecipe,
  precision: Precision = fullPrecision,
  wholeGradients = stage < 2,
): ZeroBytes {
  const whole = 4 * elements;
  const owned = stage === 0 ? whole : whole / ranks;
  const narrow = precision.storage !== 'float32';
  return {
    parameters: narrow ? whole / 2 : whole,
    gradients: wholeGradients ? whole : whole / ranks,
    optimizer: stateCount(recipe) * owned,
    master: narrow ? owned : 0,
    window: narrow ? whole : 0,
    communication: precision.gradientType !== 'float32' && wholeGradients ? whole / 2 : 0,
  };
}

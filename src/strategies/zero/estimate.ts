import type { DeepSpeedConfig } from '../../config/index.ts';
import { fullPrecision, type Precision } from '../precision/precision.ts';
import { offloadedBytes } from '../offload/estimate.ts';
import type { OffloadSettings } from '../offload/settings.ts';
import { type OptimizerRecipe, stateCount } from './recipe.ts';
import type { ZeroBytes, ZeroStage } from './stage.ts';

/**
 * Whether every rank keeps whole gradients between micro batches: stages 0 and 1 do, and others when
 * they are asked to communicate only at the accumulation boundary. Without accumulation there is nothing to keep.
 */
export function keepsWholeGradients(config: DeepSpeedConfig): boolean {
  const { stage, reduce_at_boundary: atBoundary } = config.zero_optimization;
  return stage < 2 || (atBoundary && config.gradient_accumulation_steps > 1);
}

/** Whether the model's parameters are gathered. One rank alone does so only from disk. */
export function gathersParameters(
  { stage, offload }: { stage: ZeroStage; offload?: OffloadSettings | null },
  ranks: number,
  narrow: boolean,
): boolean {
  return stage === 3 && (ranks > 1 || (offload != null && (narrow || offload.parameters !== null)));
}

/** Whether what training does not change is gathered, too. From memory, one rank alone has nothing to gather. */
export function gathersFrozen(
  { stage, offload }: { stage: ZeroStage; offload?: OffloadSettings | null },
  ranks: number,
): boolean {
  return stage === 3 && (ranks > 1 || offload?.parameters != null);
}

/**
 * The memory formulas of ZeRO (1910.02054, section 3) with Ψ elements on N ranks and K optimizer states.
 * fp32: stage 0 4Ψ + 4Ψ + 4KΨ; stage 1 4Ψ + 4Ψ + 4KΨ/N; stage 2 4Ψ + 4Ψ/N + 4KΨ/N. 16-bit storage
 * replaces the first 4Ψ by 2Ψ + 4Ψ (master; 4Ψ/N from stage 1 on) and the window, 4 bytes an element of it. Stage 3 is stage 2 with
 * 4Ψ/N of parameters, or 2Ψ/N + 4Ψ/N of 16-bit and master weights. Gradients that travel in 16 bits need
 * 2Ψ more at stages 0 and 1. The gradient windows of stages 2 and 3, the parameter windows of stage 3 and
 * activations come on top.
 *
 * @param wholeGradients stage 2 or 3 that keeps them, see keepsWholeGradients: 4Ψ (and 2Ψ) as at stage 1
 * @param offload what of a rank's shard goes to disk
 * @param widened elements of what the model cannot read in 16 bits
 */
export function zeroBytes(
  stage: ZeroStage,
  elements: number,
  ranks: number,
  recipe: OptimizerRecipe,
  precision: Precision = fullPrecision,
  wholeGradients = stage < 2,
  offload: OffloadSettings | null = null,
  widened = elements,
): ZeroBytes {
  const whole = 4 * elements;
  const owned = stage === 0 ? whole : whole / ranks;
  const narrow = precision.storage !== 'float32';
  const gathers = gathersParameters({ stage, offload }, ranks, narrow);
  const held = gathers ? whole / ranks : whole;
  const bytes = {
    parameters: narrow ? held / 2 : held,
    gradients: wholeGradients ? whole : whole / ranks,
    optimizer: stateCount(recipe) * owned,
    master: narrow ? owned : 0,
    window: narrow && !gathers ? 4 * widened : 0,
    communication: precision.gradientType !== 'float32' && wholeGradients ? whole / 2 : 0,
    io: 0,
  };
  return offload ? offloadedBytes(bytes, owned / 4, offload, wholeGradients) : bytes;
}

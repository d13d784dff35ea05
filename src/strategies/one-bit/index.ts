/** Optimizers that send one bit an element: which, by the config. */
import type { DeepSpeedConfig } from '../../config/index.ts';
import type { OptimizerStepOwner } from '../../hooks/index.ts';
import type { Weights } from '../precision/weights.ts';
import type { LocalState } from '../zero/index.ts';
import type { CompressedMomentumOptions } from './compressed-momentum.ts';
import { createOneBitAdam } from './one-bit-adam.ts';
import { createOneBitLamb } from './one-bit-lamb.ts';
import { ZeroOneAdam } from './zero-one-adam.ts';
import type { ZeroOneRules } from './zero-one-schedule.ts';

export interface CompressingOptimizer extends OptimizerStepOwner {
  /** At the next step the gradient stays with its rank, because something else travels, or nothing. */
  readonly keepsGradient: boolean;
  /** What this rank alone has. */
  readonly local: readonly LocalState[];
  /** The weights to save and to load. */
  readonly weights: Weights;
  /** Before a checkpoint: brings `weights.stored` up to date. */
  settle?(): void;
}

export type OneBitRecipe =
  | { type: 'OneBitAdam' | 'OneBitLamb'; freezeStep: number }
  | ({ type: 'ZeroOneAdam' } & ZeroOneRules);

/** Null for optimizers that send whole gradients. */
export function oneBitRecipe({ optimizer }: DeepSpeedConfig): OneBitRecipe | null {
  switch (optimizer?.type) {
    case 'OneBitAdam':
    case 'OneBitLamb':
      return { type: optimizer.type, freezeStep: Math.max(1, optimizer.params.freeze_step) };
    case 'ZeroOneAdam': {
      const { params } = optimizer;
      return {
        type: 'ZeroOneAdam',
        varFreezeStep: params.var_freeze_step,
        varUpdateScaler: params.var_update_scaler,
        localStepScaler: params.local_step_scaler,
        localStepClipper: params.local_step_clipper,
      };
    }
    default:
      return null;
  }
}

export function createOneBit(
  recipe: OneBitRecipe,
  options: CompressedMomentumOptions,
): CompressingOptimizer {
  switch (recipe.type) {
    case 'OneBitAdam':
      return createOneBitAdam(options, recipe.freezeStep);
    case 'OneBitLamb':
      return createOneBitLamb(options, recipe.freezeStep);
    case 'ZeroOneAdam':
      return new ZeroOneAdam(options, recipe);
  }
}

/** Optimizers that send one bit an element: which, by the config. */
import type { DeepSpeedConfig } from '../../config/index.ts';
import type { FlatLayout } from '../../layout.ts';
import type { CompressingOptimizer } from './compressing-optimizer.ts';
import type { CompressedMomentumOptions } from './compressed-momentum.ts';
import { createOneBitAdam } from './one-bit-adam.ts';
import { errorBytes } from './compressed-mean.ts';
import { createOneBitLamb, oneBitLambBytes } from './one-bit-lamb.ts';
import { ZeroOneAdam, zeroOneAdamBytes } from './zero-one-adam.ts';
import type { ZeroOneRules } from './zero-one-schedule.ts';

export type { CompressingOptimizer };

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

/**
 * Bytes that a rank keeps beside the optimizer's states; staging and norms come on top.
 *
 * @param groups of parameters
 */
export function oneBitBytes(
  { type }: OneBitRecipe,
  layout: FlatLayout,
  worldSize: number,
  groups: number,
): number {
  const own = {
    OneBitAdam: () => 0,
    OneBitLamb: () => oneBitLambBytes(layout),
    ZeroOneAdam: () => zeroOneAdamBytes(layout, groups),
  };
  return errorBytes(layout, worldSize) + own[type]();
}

import type { OptimizerHyper, OptimizerKind } from '../../native/contract.ts';

/** fp32 states an optimizer keeps by element: moments, momentum, accumulated squares. */
export function stateCount(recipe: OptimizerRecipe): number {
  switch (recipe.kind) {
    case 'adam':
    case 'adamw':
    case 'adamax':
    case 'rmsprop':
    case 'adadelta':
    case 'lamb':
      return 2;
    case 'rmsprop_centered':
    case 'onebit_lamb':
    case 'lamb_frozen':
      return 3;
    case 'lion':
    case 'adagrad':
    case 'adagrad_root':
    case 'adam_frozen':
      return 1;
    case 'average':
      return 0;
    case 'sgd':
      return recipe.groups.some((group) => group.beta1 !== 0) ? 1 : 0;
  }
}

export interface OptimizerRecipe {
  readonly kind: OptimizerKind;
  /** One entry by parameter group; `lr` is replaced every step by the schedule. */
  readonly groups: readonly OptimizerHyper[];
  /** Global-norm clipping; 0 = off. */
  readonly maxNorm: number;
}

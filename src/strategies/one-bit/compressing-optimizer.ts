import type { OptimizerStepOwner } from '../../hooks/index.ts';
import type { LocalState } from '../local-state.ts';
import type { Weights } from '../precision/weights.ts';

/** An optimizer that sends less than whole gradients. */
export interface CompressingOptimizer extends OptimizerStepOwner {
  /** At the next step the gradient stays with its rank, because something else travels, or nothing. */
  readonly keepsGradient: boolean;
  /** What this rank alone has. */
  readonly local: readonly LocalState[];
  /** The weights to save and to load. */
  readonly weights: Weights;
}

import type { OptimizerStepOwner } from '../../hooks/index.ts';
import type { LocalState } from '../local-state.ts';
import type { Weights } from '../precision/weights.ts';

/** An optimizer that sends less than whole gradients. */
export interface CompressingOptimizer extends OptimizerStepOwner {
  /** At the next step the gradient stays with its rank, because something else travels, or nothing. */
  readonly keepsGradient: boolean;
  /** What a step changes waits for a checkpoint that has yet to read it; otherwise who asks for the step waits for all. */
  readonly waitsForSave: boolean;
  /** What this rank alone has. */
  readonly local: readonly LocalState[];
  /** The weights to save and to load. */
  readonly weights: Weights;
  /** Before a checkpoint: brings `weights.stored` up to date. */
  settle?(): void;
}

import type { DeepSpeedConfig, SectionDefinition } from '../config/index.ts';
import type { Claims, Host, Lifecycle } from '../hooks/index.ts';
import type {
  NativeAddon,
  NativeBuffer,
  NativeCommunicator,
  NativeEngine,
} from '../native/index.ts';
import type { FlatLayout, FrozenParameters } from '../layout.ts';
import type { Precision } from './precision/precision.ts';
import type { OptimizerRecipe } from './zero/optimizer.ts';

/** What a strategy may hold on to. Everything lives until the session ends. */
export interface StrategyContext {
  readonly host: Host;
  readonly lifecycle: Lifecycle;
  readonly claims: Claims;
  readonly addon: NativeAddon;
  readonly engine: NativeEngine;
  /** For set-up and small values; collectives of a step are enqueued on the engine. */
  readonly communicator: NativeCommunicator;
  /** All ranks are on one machine: there can be joint memory. */
  readonly sharesMemory: boolean;
  readonly layout: FlatLayout;
  /**
   * All trainable parameters as the model reads them: fp32, by `layout`. Allocated when first looked at,
   * which a strategy that claims `parameters` never does.
   */
  readonly parameters: NativeBuffer;
  /** Absent where training changes every parameter. */
  readonly frozen?: FrozenParameters;
  readonly optimizer: OptimizerRecipe;
  readonly precision: Precision;
  /** Of the run: what strategies draw from, the same on every rank. */
  readonly seed: number;
  /** Effective config; null for a strategy that takes none. */
  readonly config: DeepSpeedConfig | null;
  readonly version: string;
}

/**
 * A strategy, in the way webpack plugins are: it claims and taps once, at setup, and everything it does
 * afterwards is a tap. A third party's brings its own config section.
 *
 * @example
 * registerStrategy('lazy', () => ({
 *   name: 'lazy',
 *   apply(context) {
 *     applyDeepSpeed(context);
 *     context.lifecycle.tap('metrics', 'observe', 'lazy.log', ({ loss }) => console.log(loss));
 *   },
 * }));
 */
export interface StrategyPlugin {
  readonly name: string;
  readonly section?: SectionDefinition;
  apply(context: StrategyContext): void;
}

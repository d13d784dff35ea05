/** TensorFlow.js over several ranks: `deepspeed-js/tfjs`. A script needs none of it; it adds what a script cannot say. */
import { getRunEnvironment } from './launcher/run-environment.ts';
import { installHost } from './hosts/tfjs/process.ts';
import type { StrategyOptions } from './hosts/tfjs/settings.ts';

export type { StrategyOptions } from './hosts/tfjs/settings.ts';

const host = installHost(getRunEnvironment());

/**
 * Trains a model with a strategy and a DeepSpeed config of its own.
 *
 * @returns the model
 * @example
 * withStrategy(model, { strategy: 'deepspeed', deepspeed: { zero_optimization: { stage: 1 } } });
 */
export function withStrategy<M extends object>(model: M, options: StrategyOptions): M {
  return host.withStrategy(model, options);
}

/**
 * This rank's rows of a batch, for loops of your own over `optimizer.minimize` or `variableGrads`: the
 * gradients (and the loss) that come next are those of the whole batch. Takes tensors, arrays and typed
 * arrays of scalars, and objects of them; cut inputs and targets of one batch alike.
 */
export function shard<T>(batch: T): T {
  return host.shard(batch);
}

/** True on the rank that writes files and speaks: rank 0. */
export function isMainProcess(): boolean {
  return host.isMainProcess;
}

/** `model.save`: every rank enters, rank 0 writes, all get the result. And `file://`, which plain TensorFlow.js lacks. */
import { fromRankZeroOrThrow } from './result.ts';
import type { HostContext } from './context.ts';
import { FileHandler } from './file-handler.ts';
import type { Core, LayersModel } from './library.ts';

export function patchSaving(context: HostContext, core: Core, prototype: LayersModel): void {
  const route = (url: unknown) => {
    // tfjs-node brings handlers of its own.
    if (core.engine().registryFactory.tensorflow) return null;
    return typeof url === 'string' && url.startsWith('file://') ? new FileHandler(url) : null;
  };
  core.io.registerSaveRouter(route);
  core.io.registerLoadRouter(route);
  if (context.worldSize === 1) return;
  const methods = prototype as unknown as {
    save(target: unknown, config?: { includeOptimizer?: boolean }): Promise<unknown>;
  };
  const { save } = methods;
  methods.save = async function (this: LayersModel, target, config) {
    // A handler that is a function may be meant for every rank; a URL is one place for all.
    if (typeof target !== 'string') return save.call(this, target, config);
    // States are gathered from all ranks, also where only one writes.
    if (config?.includeOptimizer && this.optimizer_) await this.optimizer_.getWeights();
    return fromRankZeroOrThrow(context, () => save.call(this, target, config));
  };
}

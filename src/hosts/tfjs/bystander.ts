/**
 * Loaded by the launcher into workers and child processes of a rank. They are no ranks: what one trains, it trains
 * alone, and once on every rank. The first time, it says so.
 */
import { isMainThread } from 'node:worker_threads';
import type { Core, Layers } from './library.ts';
import { interceptLoads } from './loads.ts';

let said = false;

function say(): void {
  if (said || process.env.RANK !== '0') return;
  said = true;
  const who = isMainThread ? `the child process ${process.pid}` : 'a worker';
  process.stderr.write(
    `deepspeed-js: ${who} of rank 0 trains a model: it is no rank, so it trains alone, as do those of the other ranks\n`,
  );
}

const met = new Set<object>();

function name(prototype: object, method: string): void {
  if (met.has(prototype)) return;
  met.add(prototype);
  const methods = prototype as Record<string, (...args: unknown[]) => unknown>;
  const original = methods[method]!;
  methods[method] = function (...args) {
    say();
    return original.apply(this, args);
  };
}

interceptLoads((load) => {
  const exports = load();
  const { Optimizer, LayersModel } = (exports ?? {}) as Partial<Core & Layers>;
  if (Optimizer) name(Optimizer.prototype, 'minimize');
  if (LayersModel) name(LayersModel.prototype, 'makeTrainFunction');
  return exports;
});

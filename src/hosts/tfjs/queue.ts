import { AsyncLocalStorage } from 'node:async_hooks';

/**
 * One training at a time: two that overlap would take their steps in an order that the clock decides,
 * another one on every rank. What a training itself starts (in a callback) belongs to it and runs at once.
 */
export class TrainingQueue {
  readonly #inside = new AsyncLocalStorage<{ open: boolean }>();
  #last: Promise<unknown> = Promise.resolve();

  run<T>(action: () => Promise<T>): Promise<T> {
    if (this.#inside.getStore()?.open) return action();
    const turn = { open: true };
    const result = this.#last.then(() => this.#inside.run(turn, action));
    const settled = () => {
      turn.open = false;
    };
    this.#last = result.then(settled, settled);
    return result;
  }
}

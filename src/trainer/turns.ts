import { AsyncLocalStorage } from 'node:async_hooks';

/** One call that runs, and the end of the last one that was made from within it. */
interface Turn {
  ended: boolean;
  last: Promise<void>;
}

/**
 * Runs calls one after the other, in the order in which they were made: an `await` that a script forgets, or a
 * `Promise.all`, must not mix the collectives of two of them. What a call itself calls (a callback of training
 * that evaluates) does not wait for it, but again for what it called before.
 */
export class Turns {
  readonly #within = new AsyncLocalStorage<Turn>();
  readonly #outermost: Turn = { ended: false, last: Promise.resolve() };

  async take<T>(action: () => Promise<T>): Promise<T> {
    const caller = this.#within.getStore();
    const line = caller && !caller.ended ? caller : this.#outermost;
    const before = line.last;
    const turn: Turn = { ended: false, last: Promise.resolve() };
    let end!: () => void;
    line.last = new Promise((resolve) => {
      end = resolve;
    });
    await before;
    try {
      return await this.#within.run(turn, action);
    } finally {
      turn.ended = true;
      end();
    }
  }
}

import { AsyncLocalStorage } from 'node:async_hooks';
import { DeepSpeedError } from '../errors.ts';

/** Calls that run one after the other: the script's, or those made from within one call. */
interface Line {
  /** The end of the last one. */
  last: Promise<unknown>;
  /** The one whose turn it is. */
  running: Turn | null;
}

interface Turn extends Line {
  /** For errors. */
  readonly name: string;
  /** Where it stands: its caller's line. */
  readonly line: Line;
  /** The call that it was made from within; null: the script made it. */
  readonly caller: Turn | null;
  ended: boolean;
  /** Tells who waits for it not to; one that has not begun never does. */
  refuse(error: DeepSpeedError): void;
}

/** A callback that waits for ever does so in silence: one that takes so long is named. */
const PATIENCE_MS = 60_000;

/**
 * Runs calls one after the other, in the order in which they were made: an `await` that a script forgets, or a
 * `Promise.all`, must not mix the collectives of two of them. What a call itself calls (a callback of training
 * that evaluates) does not wait for it, but again for what it called before.
 *
 * A callback must wait neither for the call that it belongs to nor for one that stands in line behind that: none
 * of them would end. An `await` of such a promise is refused at once. Who waits for something made of it (by
 * `then`, by a function of the script) nobody can see; that is found out by what follows, a process with nothing
 * left to do. Where a timer or a server of the script keeps it busy, it cannot be told from a callback that takes
 * its time: both are named, and nothing is refused.
 */
export class Turns {
  readonly #within = new AsyncLocalStorage<Turn>();
  readonly #script: Line = { last: Promise.resolve(), running: null };
  /** Those that have neither ended nor been refused, in the order in which they were made. */
  readonly #open = new Set<Turn>();
  readonly #say: (text: string) => void;
  readonly #patienceMs: number;
  #hasSaid = false;

  /** @param say tells the user something */
  constructor(say: (text: string) => void, patienceMs = PATIENCE_MS) {
    this.#say = say;
    this.#patienceMs = patienceMs;
  }

  take<T>(name: string, action: () => Promise<T>): Promise<T> {
    const caller = this.#caller();
    const line = caller ?? this.#script;
    const before = line.last;
    const site = {};
    Error.captureStackTrace(site);
    let refuse!: (error: DeepSpeedError) => void;
    const refused = new Promise<never>((_, reject) => {
      refuse = reject;
    });
    const own: Line = { last: Promise.resolve(), running: null };
    const turn: Turn = { ...own, name, line, caller, ended: false, refuse };
    if (this.#open.size === 0) process.on('beforeExit', this.#idle);
    this.#open.add(turn);

    const result = Promise.race([before, refused])
      .then(() => {
        line.running = turn;
        return this.#within.run(turn, action);
      })
      .catch((error: unknown) => {
        throw calledFrom(error, site);
      });
    const settled = () => {
      turn.ended = true;
      this.#close(turn);
      // What it called and did not wait for.
      return turn.last;
    };
    // One that is refused ends early: those behind it still wait for those before it.
    line.last = Promise.all([before, result.then(settled, settled)]).then(() => {
      line.running = null;
    });
    return new Answer(Promise.race([result, refused]), () => this.#refusal(turn));
  }

  /** Waits for what a callback returned; names it, once, if it takes long while others stand in line. */
  async watch(callback: string, returned: unknown): Promise<void> {
    if (typeof (returned as PromiseLike<unknown> | undefined)?.then !== 'function') return;
    const watch = setInterval(() => this.#warn(callback), this.#patienceMs).unref();
    try {
      await returned;
    } finally {
      clearInterval(watch);
    }
  }

  /** The innermost call that goes on around the code that asks. */
  #caller(): Turn | null {
    let turn = this.#within.getStore() ?? null;
    while (turn?.ended) turn = turn.caller;
    return turn;
  }

  /** The calls around the code that asks, the innermost first. */
  *#around(): Generator<Turn> {
    for (let turn = this.#caller(); turn; turn = turn.caller) yield turn;
  }

  /** Why the code that asks must not wait for a call, or null. */
  #refusal(awaited: Turn): DeepSpeedError | null {
    if (!this.#open.has(awaited)) return null;
    for (const running of this.#around()) {
      if (running === awaited) {
        return neverEnds(`what ${running.name} itself calls waits for the end of ${running.name}`);
      }
      if (running.line === awaited.line) {
        return neverEnds(
          `${awaited.name} was called outside of ${running.name} and comes after it, and what ${running.name} itself calls waits for it`,
        );
      }
    }
    return null;
  }

  #warn(callback: string): void {
    if (this.#hasSaid) return;
    for (const running of this.#around()) {
      const behind = [...this.#open].find((turn) => turn.line === running.line && turn !== running);
      if (!behind) continue;
      this.#hasSaid = true;
      this.#say(
        `${callback} of a callback has taken ${this.#patienceMs / 1000} s so far, and ${behind.name} comes after ${running.name}. Should the callback wait for that, neither will go on: call it in the callback.`,
      );
    }
  }

  /**
   * Nothing will happen any more unless one is told: the first that waits for its turn, or, where none does, the
   * innermost that runs. Those after it may be what is waited for, so that the process asks again.
   */
  readonly #idle = (): void => {
    const open = [...this.#open];
    const turn = open.find(({ line }, at) => line.running !== open[at]) ?? open.at(-1)!;
    const { running } = turn.line;
    this.#close(turn);
    turn.refuse(
      running === turn || !running
        ? neverEnds(
            `${turn.name} has not ended, and nothing is left to do: it waits for what never comes`,
            'Look at what its callbacks and its dataset wait for.',
          )
        : neverEnds(
            `${turn.name} comes after ${running.name}, which itself waits for what never comes`,
          ),
    );
    setImmediate(() => {});
  };

  #close(turn: Turn): void {
    this.#open.delete(turn);
    if (this.#open.size === 0) process.off('beforeExit', this.#idle);
  }
}

const placed = new WeakSet<Error>();

/** The error with the place of the call in its stack: V8 does not find the way from a queue to who awaits it. */
function calledFrom(error: unknown, site: { stack?: string }): unknown {
  if (!(error instanceof Error) || placed.has(error)) return error;
  placed.add(error);
  const frames = site.stack?.split('\n').filter((line) => /^ +at /.test(line)) ?? [];
  Reflect.set(error, 'stack', [error.stack, ...frames].join('\n'));
  return error;
}

/** The promise of a call: it tells who awaits it where that would be for ever. What is made of it is a plain one. */
class Answer<T> extends Promise<T> {
  static override get [Symbol.species]() {
    return Promise;
  }

  readonly #refusal: () => DeepSpeedError | null;

  constructor(result: Promise<T>, refusal: () => DeepSpeedError | null) {
    super((resolve) => resolve(result));
    this.#refusal = refusal;
  }

  // biome-ignore lint/suspicious/noThenProperty: `await` calls it
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    const refusal = this.#refusal();
    if (!refusal) return super.then(onFulfilled, onRejected);
    // Who is refused here is told of no other failure.
    super.then(undefined, () => {});
    return Promise.reject<T>(refusal).then(onFulfilled, onRejected);
  }
}

function neverEnds(message: string, fix?: string): DeepSpeedError {
  return new DeepSpeedError('CALL_NEVER_ENDS', message, { ...(fix && { fix }) });
}

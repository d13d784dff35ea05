import { AsyncLocalStorage } from 'node:async_hooks';
import { DeepSpeedError } from '../../errors.ts';

interface Turn {
  /** What is trained, for errors. */
  readonly name: string;
  /** What it starts itself belongs to it. */
  open: boolean;
  /** Ends its waiting; nothing once it has begun. */
  refuse(error: DeepSpeedError): void;
}

/**
 * One training at a time: two that overlap would take their steps in an order that the clock decides,
 * another one on every rank. What a training itself starts (in a callback) belongs to it and runs at once.
 *
 * One that waits in a callback for another one, which waits for its turn, would do so for ever: alone they take
 * turns. Nobody can see who awaits a promise, so that this is found out by what follows: the process has nothing
 * left to do (`idle`). Where a timer or a server of the script keeps it busy, that cannot be told from a callback
 * that takes its time: after a long time without a step both are named, and nothing is refused.
 */
export class TrainingQueue {
  readonly #inside = new AsyncLocalStorage<Turn>();
  readonly #worldSize: number;
  readonly #patienceMs: number;
  readonly #say: (text: string) => void;
  /** Those that have not ended, in order: the first one runs. */
  readonly #turns: Turn[] = [];
  #last: Promise<unknown> = Promise.resolve();
  #watch: NodeJS.Timeout | undefined;

  /**
   * @param worldSize one rank has nobody to differ from: there trainings overlap as they do without a launcher
   * @param patienceMs after so long without a step it is said who waits for whom
   * @param say tells the user something, once
   */
  constructor(worldSize: number, patienceMs: number, say: (text: string) => void) {
    this.#worldSize = worldSize;
    this.#patienceMs = patienceMs;
    this.#say = say;
  }

  run<T>(name: string, action: () => Promise<T>): Promise<T> {
    if (this.#worldSize === 1 || this.#inside.getStore()?.open) return action();
    let refuse!: (error: DeepSpeedError) => void;
    const refused = new Promise<never>((_, reject) => {
      refuse = reject;
    });
    const turn: Turn = { name, open: true, refuse };
    this.#turns.push(turn);
    const before = this.#last;
    const result = Promise.race([before, refused]).then(() => this.#inside.run(turn, action));
    const settled = () => {
      turn.open = false;
      this.#turns.splice(this.#turns.indexOf(turn), 1);
    };
    // One that is refused ends early; those behind it still wait for those before it.
    // Without a value: an array in an array for every training would grow as long as the process lives.
    this.#last = Promise.all([before, result.then(settled, settled)]).then(() => {});
    this.progress();
    return result;
  }

  /** A step was taken, of training or evaluation. */
  progress(): void {
    if (this.#turns.length < 2) return;
    this.#watch ??= setTimeout(() => this.#warn(), this.#patienceMs).unref();
    this.#watch.refresh();
  }

  #warn(): void {
    const [running, waiting] = this.#turns;
    if (!running || !waiting) return;
    this.#say(
      `${waiting.name} waits until ${running.name} has ended, which has taken no step for ${this.#patienceMs / 1000} s. Should a callback of that wait for what was started after it, neither will go on.`,
    );
  }

  /**
   * Nothing will happen any more unless one that waits is told: the first one is. Those behind it may be what the
   * running one waits for, so that this is to be called again.
   *
   * @returns whether one was told
   * @throws DeepSpeedError TFJS_UNSUPPORTED: nobody is left to be told, and a training has not ended
   */
  idle(): boolean {
    const [running, waiting] = this.#turns;
    if (!running) return false;
    if (!waiting) {
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `${running.name} has not ended, and nothing is left to do: it waits for what never comes`,
        {
          fix: 'Look at what its callbacks and its data set wait for.',
          data: { running: running.name },
        },
      );
    }
    waiting.refuse(
      new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `${waiting.name} waits until ${running.name} has ended, which itself waits for what never comes: trainings run one after the other over ranks`,
        {
          fix: 'Do not wait in a callback of one training for another one that was started outside of it: start that in the callback, or wait for it after the first one.',
          data: { running: running.name, waiting: waiting.name },
        },
      ),
    );
    return true;
  }
}

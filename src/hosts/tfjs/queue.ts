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
 * left to do (`idle`), or, where a timer or a server of the script keeps it busy, no step is taken for a long time.
 */
export class TrainingQueue {
  readonly #inside = new AsyncLocalStorage<Turn>();
  readonly #worldSize: number;
  readonly #patienceMs: number;
  /** Those that have not ended, in order: the first one runs. */
  readonly #turns: Turn[] = [];
  #last: Promise<unknown> = Promise.resolve();
  #watch: NodeJS.Timeout | undefined;

  /**
   * @param worldSize one rank has nobody to differ from: there trainings overlap as they do without a launcher
   * @param patienceMs after so long without a step one that waits is refused
   */
  constructor(worldSize: number, patienceMs: number) {
    this.#worldSize = worldSize;
    this.#patienceMs = patienceMs;
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
    this.#last = Promise.all([before, result.then(settled, settled)]);
    this.progress();
    return result;
  }

  /** A step was taken, of training or evaluation. */
  progress(): void {
    if (this.#turns.length < 2) return;
    this.#watch ??= setInterval(() => this.idle(), this.#patienceMs).unref();
    this.#watch.refresh();
  }

  /** Nothing will happen any more: the first one that waits is told. */
  idle(): void {
    const [running, waiting] = this.#turns;
    if (!running || !waiting) return;
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
  }
}

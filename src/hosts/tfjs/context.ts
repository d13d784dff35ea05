import { DeepSpeedError } from '../../errors.ts';
import type { RunEnvironment } from '../../launcher/run-environment.ts';
import { openRuntime, type Runtime } from '../../runtime.ts';
import { Agreement } from './agreement.ts';
import type { Core, MetricFunction, Tensor } from './library.ts';
import { RandomStreams } from './random.ts';
import type { Rows } from './rows.ts';

/** The rows that a forward pass is computing, while it runs. */
export interface Pass {
  readonly rows: Rows;
  /** Random layers draw the whole batch's numbers from the shared stream and keep their rows. */
  readonly exact: boolean;
}

/** What the parts of the host share: one per process. */
export class HostContext {
  readonly run: RunEnvironment | null;
  readonly rank: number;
  readonly worldSize: number;
  readonly streams: RandomStreams;
  /** Losses and metrics that TensorFlow.js exports. */
  builtIn: ReadonlySet<MetricFunction> = new Set();
  #core: Core | undefined;
  #runtime: Runtime | undefined;
  #agreement: Agreement | undefined;
  #pass: Pass | null = null;
  readonly #said = new Set<string>();

  constructor(run: RunEnvironment | null) {
    this.run = run;
    this.rank = run?.rank ?? 0;
    this.worldSize = run?.worldSize ?? 1;
    this.streams = new RandomStreams(run?.seed ?? 0, this.rank);
  }

  get core(): Core {
    if (this.#core) return this.#core;
    throw new DeepSpeedError(
      'TFJS_NOT_HOOKED',
      'TensorFlow.js has not been loaded in this process',
      {
        fix: 'Import @tensorflow/tfjs before deepspeed-js/tfjs is used.',
      },
    );
  }

  set core(core: Core) {
    this.#core = core;
  }

  /** Joins the other ranks at its first use: a script that never trains never waits for them. */
  get runtime(): Runtime {
    this.#runtime ??= openRuntime();
    return this.#runtime;
  }

  get joined(): boolean {
    return this.#runtime !== undefined;
  }

  get agreement(): Agreement {
    this.#agreement ??= new Agreement(this.runtime.communicator, this.runtime.addon);
    return this.#agreement;
  }

  get pass(): Pass | null {
    return this.#pass;
  }

  /** Runs `action` as the pass over some rows. */
  during<T>(pass: Pass | null, action: () => T): T {
    const before = this.#pass;
    this.#pass = pass;
    try {
      return action();
    } finally {
      this.#pass = before;
    }
  }

  /** Sums of the ranks' numbers, the same bits on all. */
  sum(values: readonly number[]): Float64Array {
    const sums = Float64Array.from(values);
    if (this.worldSize > 1) this.runtime.communicator.allReduce(sums);
    return sums;
  }

  /** A note of rank 0's on standard error, once a process. */
  say(text: string): void {
    if (this.rank !== 0 || this.#said.has(text)) return;
    this.#said.add(text);
    process.stderr.write(`deepspeed-js: ${text}\n`);
  }
}

/** The one number of a scalar. */
export function numberOf(tensor: Tensor): number {
  return tensor.dataSync()[0]!;
}

/** Rows of a tensor, or all of it when that is all there is. The caller disposes it if it is another. */
export function sliceRows(core: Core, tensor: Tensor, rows: Rows): Tensor {
  if (rows.count === tensor.shape[0]) return tensor;
  const begin = tensor.shape.map((_, axis) => (axis === 0 ? rows.start : 0));
  const size = tensor.shape.map((length, axis) => (axis === 0 ? rows.count : length));
  return core.slice(tensor, begin, size);
}

/**
 * Progress on rank 0: a bar on a terminal; a line every few seconds where the output is a file, a
 * pipe or a CI log.
 */
import cliProgress from 'cli-progress';
import { formatCount, formatDuration } from './units.ts';

export interface ProgressUpdate {
  /** Optimizer steps done. */
  step: number;
  loss: number;
  /** Tokens or samples, as the unit says. */
  perSecond: number;
  learningRate: number;
}

export interface Progress {
  update(update: ProgressUpdate): void;
  /** Prints a line of its own, above the bar where there is one. */
  log(line: string): void;
  /** Ends the bar, or prints the last line if it is still due. Idempotent. */
  stop(): void;
}

export interface ProgressOptions {
  rank: number;
  /** What speed is counted in. */
  unit: 'tokens' | 'samples';
  /** False: neither bar nor lines about steps; `log` prints all the same. */
  showSteps?: boolean;
  totalSteps: number;
  /** Steps done before this run; time left counts only what this run has measured. */
  startStep?: number;
  stream?: NodeJS.WritableStream & { isTTY?: boolean };
  /** Default: a terminal, and neither CI nor NO_COLOR is set. */
  interactive?: boolean;
  /** Between plain lines. */
  intervalMs?: number;
  now?: () => number;
}

/** Ranks other than 0 get a progress that prints nothing. */
export function createProgress(options: ProgressOptions): Progress {
  if (options.rank !== 0) return { update: () => {}, log: () => {}, stop: () => {} };
  const stream = options.stream ?? process.stderr;
  const { CI, NO_COLOR } = process.env;
  if (options.showSteps === false) {
    return { update: () => {}, log: (line) => stream.write(`${line}\n`), stop: () => {} };
  }
  const interactive = options.interactive ?? (stream.isTTY === true && !CI && !NO_COLOR);
  return interactive ? barProgress(options, stream) : plainProgress(options, stream);
}

/** "loss 3.214 · 1.23k tokens/s · lr 3.0e-4 · 1:02 left" from the latest update. */
function describeProgress(options: ProgressOptions): (update: ProgressUpdate) => string {
  const now = options.now ?? Date.now;
  const startStep = options.startStep ?? 0;
  const startMs = now();
  return ({ step, loss, perSecond, learningRate }) => {
    const seconds = (now() - startMs) / 1000;
    const left = (seconds / (step - startStep)) * (options.totalSteps - step);
    return [
      `loss ${loss.toFixed(4)}`,
      `${formatCount(perSecond)} ${options.unit}/s`,
      `lr ${learningRate.toExponential(2)}`,
      `${formatDuration(left)} left`,
    ].join(' · ');
  };
}

function barProgress(options: ProgressOptions, stream: NodeJS.WritableStream): Progress {
  const describe = describeProgress(options);
  // One bar in a MultiBar, which can print lines above it.
  const bars = new cliProgress.MultiBar({
    format: '{bar} {value}/{total} {status}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    stream,
    hideCursor: true,
    // Ctrl-C belongs to the launcher.
    gracefulExit: false,
  });
  const bar = bars.create(options.totalSteps, options.startStep ?? 0, { status: '' });
  let running = true;
  return {
    update: (update) => bar.update(update.step, { status: describe(update) }),
    log: (line) => {
      if (running) bars.log(`${line}\n`);
      else stream.write(`${line}\n`);
    },
    stop: () => {
      if (!running) return;
      running = false;
      // Prints the lines that still wait, then draws for the last time.
      bars.update();
      bars.stop();
    },
  };
}

function plainProgress(options: ProgressOptions, stream: NodeJS.WritableStream): Progress {
  const describe = describeProgress(options);
  const now = options.now ?? Date.now;
  const interval = options.intervalMs ?? 5000;
  let printedMs = Number.NEGATIVE_INFINITY;
  let due: string | undefined;

  function print(line: string): void {
    stream.write(`${line}\n`);
    printedMs = now();
    due = undefined;
  }

  return {
    update: (update) => {
      const line = `step ${update.step}/${options.totalSteps} · ${describe(update)}`;
      if (now() - printedMs >= interval) print(line);
      else due = line;
    },
    log: (line) => stream.write(`${line}\n`),
    stop: () => {
      if (due !== undefined) print(due);
    },
  };
}

import { DeepSpeedError } from '../errors.ts';
import type { StepMetrics } from '../hooks/index.ts';
import { refuseUnknownKeys, unknownName } from '../nearest.ts';
import type { ResolvedArguments } from './arguments.ts';

/** One line of the log, as `state.logHistory` keeps it. */
export interface LogEntry {
  step: number;
  epoch: number;
  [metric: string]: number;
}

/** Where in the data training is: what a resumed run goes on from. */
export interface DataPosition {
  epoch: number;
  samplesInEpoch: number;
}

/** What training knows of itself; stored in checkpoints. */
export interface TrainerState {
  position: DataPosition;
  /** Optimizer steps, skipped ones included. */
  step: number;
  /** Steps that changed nothing, since gradients overflowed. */
  skippedSteps: number;
  /** Epochs passed, with a fraction. */
  epoch: number;
  maxSteps: number;
  /** Samples and target tokens over all ranks. */
  samplesSeen: number;
  tokensSeen: number;
  logHistory: LogEntry[];
  /** The best `metricForBestModel` of all evaluations. */
  bestMetric: number | null;
  /** The checkpoint with the best evaluation at its step: a tag below outputDir, or the folder in another run's. */
  bestCheckpoint: string | null;
}

/** Callbacks set these; a rank that sets one sets it for all. */
export interface TrainerControl {
  shouldTrainingStop: boolean;
  shouldEvaluate: boolean;
  shouldSave: boolean;
  shouldLog: boolean;
}

/** What every callback is given. */
export interface CallbackContext {
  readonly args: ResolvedArguments;
  readonly state: TrainerState;
  readonly control: TrainerControl;
}

/**
 * Hugging Face's callback events in camelCase. Callbacks run on every rank with equal state; what they
 * ask for through `control` on one rank happens on all. Ranks may have different callbacks.
 *
 * One that remembers something between events gives it a `name` and both state methods: it is stored in
 * checkpoints, so that a resumed run goes on as one that never stopped.
 */
export interface TrainerCallback {
  /** What its state is stored under. */
  readonly name?: string;
  /** JSON of what it remembers; called for every checkpoint. */
  saveState?(): unknown;
  /** Given what saveState returned, before onTrainBegin. */
  loadState?(state: unknown): void;
  onTrainBegin?(context: CallbackContext): void | Promise<void>;
  onEpochBegin?(context: CallbackContext): void | Promise<void>;
  onStepBegin?(context: CallbackContext): void | Promise<void>;
  onStepEnd?(context: CallbackContext & { metrics: StepMetrics }): void | Promise<void>;
  onLog?(context: CallbackContext & { logs: LogEntry }): void | Promise<void>;
  onEvaluate?(context: CallbackContext & { metrics: Record<string, number> }): void | Promise<void>;
  onSave?(context: CallbackContext & { folder: string }): void | Promise<void>;
  onEpochEnd?(context: CallbackContext): void | Promise<void>;
  onTrainEnd?(context: CallbackContext): void | Promise<void>;
}

export const callbackEvents = [
  'onTrainBegin',
  'onEpochBegin',
  'onStepBegin',
  'onStepEnd',
  'onLog',
  'onEvaluate',
  'onSave',
  'onEpochEnd',
  'onTrainEnd',
] as const satisfies readonly (keyof TrainerCallback)[];

/**
 * An event that does not exist would never be fired: a method whose name begins as those of events do
 * must be one.
 *
 * @throws ARGUMENTS_INVALID with the nearest event
 */
export function requireKnownEvents(callbacks: readonly TrainerCallback[]): void {
  if (!Array.isArray(callbacks)) {
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      'callbacks is a list: callbacks: [{ onLog() {} }]',
    );
  }
  const isKnown = (name: string) => callbackEvents.some((event) => event === name);
  for (const callback of callbacks) {
    const wrong = methodNames(callback).filter((name) => /^on[A-Z_]/.test(name) && !isKnown(name));
    if (wrong.length === 0) continue;
    const problems = wrong.map((name) => unknownName(name, callbackEvents, 'a callback event'));
    throw new DeepSpeedError('ARGUMENTS_INVALID', problems.join('\n  '), {
      fix: `The events are ${callbackEvents.join(', ')}.`,
    });
  }
}

/** Own ones, and those of classes. */
function methodNames(object: object): string[] {
  const names: string[] = [];
  for (let at = object; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    names.push(...Object.getOwnPropertyNames(at));
  }
  return names;
}

/**
 * What `metricForBestModel` names among the metrics of an evaluation; `eval_` may be left out, as in
 * Hugging Face.
 */
export function metricForBest(
  { metricForBestModel: name }: ResolvedArguments,
  metrics: Readonly<Record<string, number>>,
): number {
  const value = metrics[name] ?? metrics[`eval_${name}`];
  if (value !== undefined) return value;
  const known = Object.keys(metrics).filter((key) => key.startsWith('eval_'));
  throw new DeepSpeedError(
    'ARGUMENTS_INVALID',
    `metricForBestModel is "${name}", and evaluation gives ${known.join(', ')}`,
    { fix: 'Name one of these, or leave it out: eval_loss.' },
  );
}

/**
 * Stops training when the metric has not improved for `patience` evaluations.
 *
 * @example
 * new Trainer({ ..., callbacks: [earlyStopping({ patience: 3 })] })
 */
export function earlyStopping(
  options: { patience?: number; threshold?: number } = {},
): TrainerCallback {
  refuseUnknownKeys(options, ['patience', 'threshold'], 'earlyStopping');
  const { patience = 1, threshold = 0 } = options;
  let best: number | undefined;
  let waited = 0;
  return {
    name: 'earlyStopping',
    saveState: () => ({ best: best ?? null, waited }),
    loadState(state) {
      const stored = state as { best: number | null; waited: number };
      best = stored.best ?? undefined;
      waited = stored.waited;
    },
    onTrainBegin({ args }) {
      if (args.evalStrategy !== 'no') return;
      throw new DeepSpeedError(
        'ARGUMENTS_INVALID',
        'earlyStopping needs evalStrategy "steps" or "epoch"; without evaluation it never stops',
      );
    },
    onEvaluate({ args, control, metrics }) {
      const value = metricForBest(args, metrics);
      const gain =
        best === undefined
          ? Number.POSITIVE_INFINITY
          : args.greaterIsBetter
            ? value - best
            : best - value;
      if (gain > threshold) {
        best = value;
        waited = 0;
        return;
      }
      waited += 1;
      if (waited >= patience) control.shouldTrainingStop = true;
    },
  };
}

import { basename, resolve } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import type { StepMetrics } from '../hooks/index.ts';
import {
  type CallbackContext,
  callbackEvents,
  type LogEntry,
  metricForBest,
  type TrainerCallback,
  type TrainerControl,
  type TrainerState,
} from './callbacks.ts';
import { collectStates, restoreStates, statefulCallbacks } from './callback-state.ts';
import {
  bestOfResumed,
  checkpointTag,
  loadTrainerCheckpoint,
  saveTrainerCheckpoint,
} from './checkpoints.ts';
import type { Dataset } from './dataset.ts';
import { evaluate } from './evaluation.ts';
import { describeTiles, tilingThreshold } from '../strategies/offload/tiling.ts';
import { Reporter } from './reporter.ts';
import type { Training } from './setup.ts';
import { trainStep } from './step.ts';
import { StepTrace } from './trace.ts';
import type { Turns } from './turns.ts';
import { WorkRecords } from './work-records.ts';

/** What `train()` returns. */
export interface TrainOutput {
  /** Optimizer steps taken, earlier runs included. */
  globalStep: number;
  /** Mean over the steps of this run. */
  trainingLoss: number;
  metrics: Record<string, number>;
}

/** One call of `train()`: the loop over epochs and steps, and what happens between steps. */
export class TrainLoop {
  readonly state: TrainerState;
  readonly #training: Training;
  readonly #callbacks: readonly TrainerCallback[];
  readonly #stateful: ReturnType<typeof statefulCallbacks>;
  readonly #evalDataset: Dataset | undefined;
  readonly #turns: Turns;
  readonly #control: TrainerControl = {
    shouldTrainingStop: false,
    shouldEvaluate: false,
    shouldSave: false,
    shouldLog: false,
  };
  /** Events for which any rank has a callback. */
  #heard: ReadonlySet<keyof TrainerCallback> = new Set();
  #reporter!: Reporter;
  #trace!: StepTrace;
  #lossSinceLog = { sum: 0, steps: 0 };
  #lossOfRun = { sum: 0, steps: 0 };

  constructor(
    training: Training,
    state: TrainerState,
    callbacks: readonly TrainerCallback[],
    evalDataset: Dataset | undefined,
    turns: Turns,
  ) {
    this.#training = training;
    this.#callbacks = callbacks;
    this.#stateful = statefulCallbacks(callbacks);
    this.#evalDataset = evalDataset;
    this.#turns = turns;
    this.state = state;
  }

  async run(resumeFrom: boolean | string | undefined): Promise<TrainOutput> {
    const { host, recipe, runtime, session } = this.#training;
    this.state.maxSteps = recipe.totalSteps;
    const resumed = resumeFrom ? await loadTrainerCheckpoint(this.#training, resumeFrom) : null;
    if (resumed) {
      const bestCheckpoint = await bestOfResumed(
        this.#training,
        resumed.state.bestCheckpoint,
        resumed.folder,
      );
      Object.assign(this.state, resumed.state, { maxSteps: recipe.totalSteps, bestCheckpoint });
      restoreStates(this.#stateful, resumed.run.callbacks);
      this.#lossSinceLog = resumed.run.unlogged;
    }
    const records = new WorkRecords(runtime.engine);
    this.#reporter = new Reporter(this.#training, this.state, records);
    this.#trace = new StepTrace(this.#training, records);
    const start = performance.now();
    const { tokensSeen: startTokens, samplesSeen: startSamples } = this.state;
    try {
      if (resumed) this.#reporter.log(`resumed from ${resumed.folder}${this.#nothingLeft()}`);
      else if (this.state.step > 0) {
        this.#reporter.log(`training goes on after step ${this.state.step}${this.#nothingLeft()}`);
      }
      const tiles = describeTiles(session.layout, tilingThreshold(recipe.config));
      if (tiles) this.#reporter.log(tiles);
      if (host.providerReport) this.#reporter.log(host.providerReport);
      await this.#agreeOnEvents();
      await this.#call('onTrainBegin');
      await this.#epochs();
      await this.#finish();
      this.#reporter.measured(this.state);
    } finally {
      this.#reporter.stop();
    }
    const seconds = (performance.now() - start) / 1000;
    const trainingLoss = this.#lossOfRun.sum / Math.max(1, this.#lossOfRun.steps);
    this.#reporter.finish(this.state, trainingLoss);
    return {
      globalStep: this.state.step,
      trainingLoss,
      metrics: {
        train_runtime: seconds,
        train_loss: trainingLoss,
        train_samples_per_second: (this.state.samplesSeen - startSamples) / seconds,
        ...(this.#training.model.target === 'token' && {
          train_tokens_per_second: (this.state.tokensSeen - startTokens) / seconds,
        }),
        world_size: runtime.worldSize,
      },
    };
  }

  #nothingLeft(): string {
    const { step, maxSteps } = this.state;
    if (step < maxSteps) return '';
    return `, which has taken ${step} of ${maxSteps} steps: raise maxSteps or numTrainEpochs to go on`;
  }

  async #epochs(): Promise<void> {
    const { recipe, source } = this.#training;
    while (this.state.step < recipe.totalSteps && !this.#control.shouldTrainingStop) {
      await this.#call('onEpochBegin');
      const { epoch, samplesInEpoch } = this.state.position;
      let whole = true;
      for await (const parts of source!.epoch(epoch, samplesInEpoch)) {
        await this.#call('onStepBegin');
        const metrics = await trainStep(
          this.#training,
          this.state.step,
          parts,
          this.state.skippedSteps,
        );
        if (this.#training.saving?.isLoadable) await this.#publish();
        this.#advance(metrics);
        for (const file of await this.#trace.afterStep()) this.#reporter.wrote(file);
        await this.#call('onStepEnd', { metrics });
        await this.#afterStep();
        if (this.state.step < recipe.totalSteps && !this.#control.shouldTrainingStop) continue;
        // Of a stream nobody knows whether this was its end: a resumed run finds out.
        whole = source!.isOver(this.state.position.samplesInEpoch);
        break;
      }
      if (!whole) break;
      this.state.position = { epoch: epoch + 1, samplesInEpoch: 0 };
      await this.#epochEnd();
    }
  }

  #advance(metrics: StepMetrics): void {
    const { stepsPerEpoch, globalBatchSize } = this.#training.source!;
    const { epoch } = this.state.position;
    const samplesInEpoch = this.state.position.samplesInEpoch + globalBatchSize;
    this.state.position = { epoch, samplesInEpoch };
    this.state.step = metrics.step;
    if (metrics.skipped) this.state.skippedSteps += 1;
    const steps = samplesInEpoch / globalBatchSize;
    this.state.epoch = epoch + (stepsPerEpoch ? Math.min(1, steps / stepsPerEpoch) : 0);
    this.state.samplesSeen += metrics.samples;
    this.state.tokensSeen += metrics.tokens;
    for (const total of [this.#lossSinceLog, this.#lossOfRun]) {
      total.sum += metrics.loss;
      total.steps += 1;
    }
    this.#reporter.step(metrics, this.state);
    const { args } = this.#training;
    if (this.state.step % args.loggingSteps === 0 || this.state.step === 1) {
      this.#control.shouldLog = true;
    }
    if (args.evalStrategy === 'steps' && this.state.step % args.evalSteps! === 0) {
      this.#control.shouldEvaluate = true;
    }
    if (args.saveStrategy === 'steps' && this.state.step % args.saveSteps === 0) {
      this.#control.shouldSave = true;
    }
    this.#latest = metrics;
  }

  #latest: StepMetrics | undefined;

  async #epochEnd(): Promise<void> {
    const { args } = this.#training;
    if (args.evalStrategy === 'epoch') this.#control.shouldEvaluate = true;
    if (args.saveStrategy === 'epoch') this.#control.shouldSave = true;
    await this.#call('onEpochEnd');
    await this.#afterStep();
  }

  /** Does what schedules or callbacks asked for; evaluation first, so that a checkpoint knows its score. */
  async #afterStep(): Promise<void> {
    const control = this.#control;
    if (control.shouldLog) await this.#log();
    if (control.shouldEvaluate) await this.#evaluate();
    if (control.shouldSave) await this.#save();
    control.shouldLog = control.shouldEvaluate = control.shouldSave = false;
  }

  /** A callback may exist on one rank only; all must know after which events its wishes are shared. */
  async #agreeOnEvents(): Promise<void> {
    const own = callbackEvents.map((event) => this.#callbacks.some((callback) => callback[event]));
    const listeners = await this.#training.scalars.sum(own.map(Number));
    this.#heard = new Set(callbackEvents.filter((_, index) => listeners[index]! > 0));
  }

  /** What one rank's callback asked for happens on all: nobody waits alone in a collective. */
  async #agreeOnControl(): Promise<void> {
    const control = this.#control;
    const keys = Object.keys(control) as (keyof TrainerControl)[];
    const votes = await this.#training.scalars.sum(keys.map((key) => (control[key] ? 1 : 0)));
    for (const [index, key] of keys.entries()) control[key] = votes[index]! > 0;
  }

  async #log(): Promise<void> {
    // A run that was resumed at its end has taken no step to tell of.
    if (!this.#latest || this.#lossSinceLog.steps === 0) return;
    const logs: LogEntry = {
      step: this.state.step,
      epoch: this.state.epoch,
      loss: this.#lossSinceLog.sum / this.#lossSinceLog.steps,
      learning_rate: this.#latest.learningRate,
      // JSON has no NaN: a skipped step logs no norm.
      ...(!this.#latest.skipped && { grad_norm: this.#latest.gradientNorm }),
      ...(this.#training.session.precision.lossScale && { loss_scale: this.#latest.lossScale }),
    };
    this.#lossSinceLog = { sum: 0, steps: 0 };
    this.state.logHistory.push(logs);
    await this.#call('onLog', { logs });
  }

  async #evaluate(): Promise<void> {
    const { args } = this.#training;
    if (!this.#evalDataset) {
      throw new DeepSpeedError(
        'ARGUMENTS_INVALID',
        'a callback set control.shouldEvaluate, and the Trainer has no evalDataset',
        { fix: 'Give new Trainer({ evalDataset }).' },
      );
    }
    const metrics = await evaluate(this.#training, this.#evalDataset, this.state.step);
    this.state.logHistory.push({ step: this.state.step, epoch: this.state.epoch, ...metrics });
    this.#reporter.evaluation(metrics, this.state);
    const value = metricForBest(args, metrics);
    if (this.#better(value, this.state.bestMetric)) this.state.bestMetric = value;
    await this.#call('onEvaluate', { metrics });
  }

  #better(value: number, best: number | null): boolean {
    if (Number.isNaN(value)) return false;
    return best === null || (this.#training.args.greaterIsBetter ? value > best : value < best);
  }

  /** The best checkpoint is the best of those that exist, not of all evaluations. */
  #noteBestCheckpoint(): void {
    const { state } = this;
    const scoreOf = (tag: string) => {
      const entry = state.logHistory.findLast(
        ({ step, eval_loss: loss }) => loss !== undefined && checkpointTag(step) === basename(tag),
      );
      return entry ? metricForBest(this.#training.args, entry) : null;
    };
    const tag = checkpointTag(state.step);
    const score = scoreOf(tag);
    if (score === null) return;
    const best = state.bestCheckpoint === null ? null : scoreOf(state.bestCheckpoint);
    if (this.#better(score, best)) state.bestCheckpoint = tag;
  }

  async #save(): Promise<void> {
    await this.#publish();
    this.#reporter.flush();
    this.#noteBestCheckpoint();
    const { folder, saving } = await saveTrainerCheckpoint(this.#training, this.state, {
      callbacks: await collectStates(this.#training.runtime, this.#stateful),
      unlogged: this.#lossSinceLog,
    });
    this.#lastSaved = this.state.step;
    this.#training.saving = saving;
    if (!saving) await this.#saved(folder);
  }

  #lastSaved = -1;

  /** Waits for what has not been done beside steps. */
  async #publish(): Promise<void> {
    const { saving } = this.#training;
    if (!saving) return;
    await saving.finish();
    this.#training.saving = null;
    await this.#saved(saving.folder);
  }

  async #saved(folder: string): Promise<void> {
    this.#reporter.wrote(folder);
    await this.#call('onSave', { folder });
  }

  async #finish(): Promise<void> {
    const { args } = this.#training;
    for (const file of await this.#trace.finish()) this.#reporter.wrote(file);
    if (args.evalStrategy !== 'no' && this.#lossOfRun.steps > 0) {
      const last = this.state.logHistory.findLast((entry) => entry.eval_loss !== undefined);
      if (last?.step !== this.state.step) await this.#evaluate();
    }
    await this.#log();
    if (
      args.saveStrategy !== 'no' &&
      this.#lossOfRun.steps > 0 &&
      this.#lastSaved !== this.state.step
    ) {
      await this.#save();
    }
    await this.#publish();
    const { bestCheckpoint, step } = this.state;
    if (args.loadBestModelAtEnd && bestCheckpoint && bestCheckpoint !== checkpointTag(step)) {
      await loadTrainerCheckpoint(this.#training, resolve(args.outputDir, bestCheckpoint));
      this.#reporter.log(`loaded the best checkpoint, ${bestCheckpoint}`);
    }
    await this.#call('onTrainEnd');
  }

  /** After it `#control` is the same on all ranks. */
  async #call<E extends keyof TrainerCallback>(event: E, extra: object = {}): Promise<void> {
    if (!this.#heard.has(event)) return;
    const context: CallbackContext = {
      args: this.#training.args,
      state: this.state,
      control: this.#control,
    };
    for (const callback of this.#callbacks) {
      const listen = callback[event] as ((context: object) => unknown) | undefined;
      await this.#turns.watch(event, listen?.call(callback, { ...context, ...extra }));
    }
    await this.#agreeOnControl();
  }
}

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StepMetrics } from '../hooks/index.ts';
import {
  createMonitor,
  createProgress,
  type Monitor,
  type Progress,
  renderLossCurve,
  renderSummary,
  writing,
} from '../monitor/index.ts';
import type { TrainerState } from './callbacks.ts';
import { ConfigReports } from './config-reports.ts';
import type { Training } from './setup.ts';
import type { WorkRecords } from './work-records.ts';

/** What rank 0 shows and writes while a model trains; other ranks report nothing. */
export class Reporter {
  readonly #training: Training;
  readonly #progress: Progress;
  readonly #monitor: Monitor;
  readonly #reports: ConfigReports;
  readonly #start = performance.now();
  /** Of speed: what a language model's targets are, for other models samples. */
  readonly #unit: 'tokens' | 'samples';
  readonly #startState: { step: number; amount: number };
  readonly #files: string[] = [];

  constructor(training: Training, state: TrainerState, records: WorkRecords) {
    this.#training = training;
    this.#unit = training.model.target === 'token' ? 'tokens' : 'samples';
    this.#startState = { step: state.step, amount: this.#amount(state) };
    const { args, runtime } = training;
    this.#progress = createProgress({
      rank: runtime.rank,
      unit: this.#unit,
      showSteps: !args.disableTqdm,
      totalSteps: state.maxSteps,
      startStep: state.step,
    });
    this.#monitor = openMonitors(training, state);
    this.#reports = new ConfigReports(training, records);
  }

  step(metrics: StepMetrics, state: TrainerState): void {
    const seconds = (performance.now() - this.#start) / 1000;
    this.#progress.update({
      step: state.step,
      loss: metrics.loss,
      perSecond: (this.#amount(state) - this.#startState.amount) / seconds,
      learningRate: metrics.learningRate,
    });
    const values = {
      train_loss: metrics.loss,
      lr: metrics.learningRate,
      grad_norm: metrics.gradientNorm,
      ...(this.#training.session.precision.lossScale && { loss_scale: metrics.lossScale }),
    };
    const { lines, events } = this.#reports.afterStep(metrics, state);
    this.#monitor.writeEvents([
      ...Object.entries(values)
        // A skipped step has no gradient norm.
        .filter(([, value]) => Number.isFinite(value))
        .map(([name, value]) => ({
          name: `Train/Samples/${name}`,
          value,
          step: state.samplesSeen,
        })),
      ...events,
    ]);
    for (const line of lines) this.log(line);
  }

  evaluation(metrics: Record<string, number>, state: TrainerState): void {
    const { eval_loss: loss, eval_perplexity: perplexity } = metrics;
    const inWords = perplexity === undefined ? '' : `, perplexity ${perplexity.toFixed(2)}`;
    this.log(`step ${state.step}: eval loss ${loss!.toFixed(4)}${inWords}`);
    this.#monitor.writeEvents([
      { name: 'Eval/Samples/eval_loss', value: metrics.eval_loss!, step: state.samplesSeen },
    ]);
  }

  /** Also without a progress bar. */
  log(line: string): void {
    this.#progress.log(line);
  }

  /** A file or folder that the run left; named in the summary. */
  wrote(path: string): void {
    if (!this.#files.includes(path)) this.#files.push(path);
  }

  /** Of a run that has come to its end, before `stop`: what monitors get of its collectives. */
  measured(state: TrainerState): void {
    this.#monitor.writeEvents(this.#reports.atEnd(state).events);
  }

  flush(): void {
    this.#monitor.flush();
  }

  /** Ends the bar; rank 0 prints the summary. */
  finish(state: TrainerState, trainLoss: number): void {
    this.stop();
    const { runtime } = this.#training;
    if (runtime.rank !== 0) return;
    this.#drawLoss(state);
    for (const line of this.#reports.atEnd(state).lines) console.log(line);
    const evaluation = state.logHistory.findLast((entry) => entry.eval_loss !== undefined);
    const lines = renderSummary({
      seconds: (performance.now() - this.#start) / 1000,
      steps: state.step - this.#startState.step,
      amount: this.#amount(state) - this.#startState.amount,
      unit: this.#unit,
      trainLoss,
      ...(evaluation && { evaluationLoss: evaluation.eval_loss! }),
      peakMemory: runtime.engine.memory().peak,
      // Older checkpoints are gone where saveTotalLimit says so.
      files: [...this.#files, ...this.#monitor.files].filter((path) => existsSync(path)),
    });
    for (const line of lines) console.log(line);
  }

  #amount({ tokensSeen, samplesSeen }: TrainerState): number {
    return this.#unit === 'tokens' ? tokensSeen : samplesSeen;
  }

  #drawLoss({ logHistory }: TrainerState): void {
    const points = (metric: string) =>
      logHistory.flatMap((entry) =>
        entry[metric] === undefined ? [] : [{ step: entry.step, loss: entry[metric] }],
      );
    const path = join(this.#training.args.outputDir, 'loss.svg');
    const curve = renderLossCurve({
      train: points('loss'),
      evaluation: points('eval_loss'),
      ...(this.#unit === 'tokens' && { unit: 'nats' }),
    });
    writing(path, () => writeFileSync(path, curve));
    this.wrote(path);
  }

  /** Also after a failure. */
  stop(): void {
    this.#progress.stop();
    this.#reports.stop();
    this.#monitor.close();
  }
}

/** The config's monitors; where it has none enabled, what the Trainer's `reportTo` asks for. */
function openMonitors({ args, recipe, runtime }: Training, state: TrainerState): Monitor {
  const own = (name: 'tensorboard' | 'csv') => ({
    enabled: args.reportTo.includes(name),
    output_path: join(args.outputDir, 'logs'),
    job_name: name,
  });
  const { tensorboard, csv_monitor: csv } = recipe.config ?? {};
  return createMonitor(
    {
      tensorboard: tensorboard?.enabled ? tensorboard : own('tensorboard'),
      csv_monitor: csv?.enabled ? csv : own('csv'),
    },
    runtime.rank,
    state.step === 0 ? undefined : state.samplesSeen,
  );
}

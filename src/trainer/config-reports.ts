import type { StepMetrics } from '../hooks/index.ts';
import { type Breakdown, Diagnostics, type MonitorEvent } from '../monitor/index.ts';
import type { TrainerState } from './callbacks.ts';
import type { Training } from './setup.ts';
import type { WorkRecords } from './work-records.ts';

/** The phases that DeepSpeed's monitors know, by its names for them. */
const timerNames: { readonly [P in keyof Breakdown['phases']]?: string } = {
  forward: 'forward',
  backward: 'backward',
  communication: 'backward_allreduce',
  optimizer: 'step',
};

/**
 * What the config asks rank 0 to say: steps_per_print, wall_clock_breakdown, comms_logger. Other ranks,
 * and runs without a config, say nothing.
 */
export class ConfigReports {
  readonly #training: Training;
  readonly #records: WorkRecords;
  readonly #diagnostics: Diagnostics | null;
  readonly #unfollow: (() => void) | undefined;

  constructor(training: Training, records: WorkRecords) {
    const { recipe, runtime } = training;
    this.#training = training;
    this.#records = records;
    this.#diagnostics =
      recipe.config && runtime.rank === 0
        ? new Diagnostics(recipe.config, runtime.worldSize)
        : null;
    if (!this.#diagnostics?.needsRecords) return;
    this.#unfollow = records.follow((works) => this.#diagnostics!.collect(works));
  }

  /** Lines and events that are due after a step; mostly none. */
  afterStep(
    { step, learningRate }: StepMetrics,
    { skippedSteps, samplesSeen }: TrainerState,
  ): { lines: string[]; events: MonitorEvent[] } {
    this.#records.drain();
    if (!this.#diagnostics) return { lines: [], events: [] };
    const lines = this.#diagnostics.afterStep({ step, skipped: skippedSteps, learningRate });
    const phases = Object.entries(this.#diagnostics.breakdown?.phases ?? {});
    const events = phases.flatMap(([phase, value]) => {
      const timer = timerNames[phase as keyof Breakdown['phases']];
      return timer === undefined
        ? []
        : [{ name: `Train/Samples/elapsed_time_ms_${timer}`, value, step: samplesSeen }];
    });
    return { lines, events };
  }

  /** The table of collectives, if asked for. */
  atEnd({ samplesSeen }: TrainerState): { lines: string[]; events: MonitorEvent[] } {
    if (!this.#diagnostics) return { lines: [], events: [] };
    return this.#diagnostics.atEnd(this.#training.runtime.engine.commStats(), samplesSeen);
  }

  /** Also after a failure. */
  stop(): void {
    this.#unfollow?.();
  }
}

import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import { isThenable, type OptimizerOutcome, type StepPlan } from '../../hooks/index.ts';
import type { Runtime } from '../../runtime.ts';
import { gatherJson } from '../../strategies/agree.ts';
import { locate } from '../../strategies/checkpoint/index.ts';
import type { ArraySession } from './array-session.ts';
import type { LoopSettings } from './settings.ts';
import {
  type Gradients,
  nameNonFinite,
  type Parameters,
  requireGradients,
  requireUnchanged,
} from './user-arrays.ts';

/** What `initialize` gives: DeepSpeed's engine for a loop that computes its own gradients. */
export class LoopEngine {
  readonly rank: number;
  readonly worldSize: number;
  readonly gradientAccumulationSteps: number;
  readonly #runtime: Runtime;
  readonly #session: ArraySession;
  readonly #settings: LoopSettings;
  readonly #parameters: Parameters;
  #step = 0;
  #skipped = 0;
  /** Micro batches of this step so far, and those among them that `noSync` added. */
  #microBatch = 0;
  #extra = 0;
  /** Actions of `noSync` that have not ended. */
  #unsynced = 0;
  #losses: number[] = [];
  #plan: StepPlan | null = null;
  #last: Gradients = {};
  #outcome: OptimizerOutcome | null = null;
  #rate: number | null = null;
  #state: 'open' | 'failed' | 'closed' = 'open';
  #failed: Promise<void> = Promise.resolve();

  /** @internal Use `initialize`. */
  constructor(
    runtime: Runtime,
    session: ArraySession,
    settings: LoopSettings,
    parameters: Parameters,
  ) {
    this.#runtime = runtime;
    this.#session = session;
    this.#settings = settings;
    this.#parameters = parameters;
    this.rank = runtime.rank;
    this.worldSize = runtime.worldSize;
    this.gradientAccumulationSteps = settings.microBatches;
  }

  /** Optimizer steps taken, skipped ones included. */
  get globalSteps(): number {
    return this.#step;
  }

  /**
   * Takes the gradients of one micro batch: means over this rank's rows. They are averaged over micro
   * batches and ranks, as DeepSpeed does, which is the mean over all rows when all have equally many.
   *
   * @param gradients one Float32Array for each parameter, of its length; read before this returns
   * @param loss for metrics and monitors
   */
  backward(gradients: Gradients, loss = Number.NaN): void {
    this.#guard(() => {
      this.#requireOpen();
      requireGradients(this.#parameters, gradients);
      if (typeof loss !== 'number') {
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          `backward() got ${typeof loss === 'string' ? `"${loss}"` : typeof loss} as the loss; it is a number`,
        );
      }
      if (this.#unsynced > 0) this.#extra += 1;
      const microBatches = this.gradientAccumulationSteps + this.#extra;
      if (this.#microBatch >= microBatches) {
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          `backward() was called ${this.#microBatch + 1} times for a step of ${microBatches} micro batches`,
          { fix: 'Call step() after every backward(), as with DeepSpeed.' },
        );
      }
      const { gradients: owner } = this.#session;
      const factor = owner.lossScale / (this.gradientAccumulationSteps * this.worldSize);
      const plan = {
        training: true,
        step: this.#step,
        microBatch: this.#microBatch,
        microBatches,
      };
      this.#plan = this.#session.trainMicroBatch(plan, (sink, agreed) => {
        for (const name of this.#parameters.keys()) sink.write(name, gradients[name]!, factor);
        return agreed;
      });
      this.#microBatch += 1;
      this.#losses.push(loss);
      this.#last = gradients;
    });
  }

  /** True while the micro batch under way is the last before the optimizer steps. */
  isGradientAccumulationBoundary(): boolean {
    return (
      this.#unsynced === 0 && this.#microBatch >= this.gradientAccumulationSteps + this.#extra - 1
    );
  }

  /**
   * To be called after every `backward`: at the accumulation boundary the optimizer steps and the arrays
   * of all parameters get their new values; otherwise nothing happens.
   *
   * @returns true when the optimizer has stepped
   */
  step(): boolean {
    return this.#guard(() => {
      if (this.#microBatch === 0) {
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          'step() was called without a backward() before it',
          {
            fix: 'Call backward() once for every micro batch, and step() after each.',
          },
        );
      }
      if (this.#microBatch < this.gradientAccumulationSteps + this.#extra) return false;
      requireUnchanged(this.#parameters, this.#session, this.#step + 1);
      const step = this.#step;
      const scheduled = this.#settings.schedule.at(step - this.#skipped);
      const learningRate = this.#rate ?? scheduled.lr;
      const outcome = this.#session.step({
        plan: this.#plan!,
        learningRates: this.#settings.recipe.groups.map(() => learningRate),
        ...(scheduled.betas && { betas: scheduled.betas }),
      });
      if (outcome.overflows > 0 && !outcome.skipped) {
        nameNonFinite(this.#runtime, this.#session, this.#parameters, {
          step: step + 1,
          last: this.#last,
          microBatches: this.#microBatch,
        });
      }
      this.#outcome = outcome;
      this.#step += 1;
      this.#finish(outcome, learningRate);
      return true;
    });
  }

  /**
   * Runs `action`; each `backward` in it adds its gradients on this rank and nothing leaves it, until the
   * next `backward` outside. Stage 2 keeps no whole gradient to add to, and refuses.
   *
   * @param action may be asynchronous: every `backward` until its promise has settled then counts as one in it
   * @returns what `action` does: await a promise before the next `backward`
   */
  noSync<T>(action: () => T): T {
    if (!this.#session.gradients.accumulatesLocally) {
      throw new DeepSpeedError(
        'HOST_LACKS_CAPABILITY',
        'noSync() needs gradients that are kept whole, which zero_optimization.stage 2 does not',
        { fix: 'Use stage 0 or 1, or gradient_accumulation_steps.' },
      );
    }
    this.#unsynced += 1;
    const ended = () => {
      this.#unsynced -= 1;
    };
    let result: T;
    try {
      result = action();
    } catch (error) {
      ended();
      throw error;
    }
    if (isThenable(result)) return Promise.resolve(result).finally(ended) as T;
    ended();
    return result;
  }

  /** Norm of the last step's gradient over all parameters and ranks, before clipping; null before a step and after a load. */
  getGlobalGradNorm(): number | null {
    return this.#outcome?.gradientNorm ?? null;
  }

  /** The learning rate of the next step. */
  getLr(): number {
    return this.#rate ?? this.#settings.schedule.at(this.#step - this.#skipped).lr;
  }

  /** Overrules the schedule from the next step on; the same on all ranks. */
  setLr(rate: number): void {
    this.#rate = rate;
  }

  /** The loop wrote into parameters itself: rank 0's values become those of all ranks. */
  async parametersReplaced(): Promise<void> {
    for (const [name, values] of this.#parameters) this.#session.parameter(name).set(values);
    await this.#session.parametersWritten();
    this.#writeBack();
  }

  /**
   * Writes `directory/tag`: parameters, optimizer states and `clientState`. Every rank must call it, between two
   * steps: gradients that wait for more micro batches are in no checkpoint. One that is refused changes nothing.
   *
   * @returns the folder
   */
  async saveCheckpoint(
    directory: string,
    tag = `global_step${this.#step}`,
    clientState: Record<string, unknown> = {},
  ): Promise<string> {
    this.#requireOpen();
    await this.#requireBetweenSteps();
    const loop = { step: this.#step, skipped: this.#skipped, rate: this.#rate, clientState };
    const event = { directory, tag, state: { step: this.#step, loop } as Record<string, unknown> };
    await this.#session.session.lifecycle.run('saveCheckpoint', event);
    return join(directory, tag);
  }

  /**
   * Loads the newest checkpoint of a directory, or one tag's folder. Every rank must call it. A step begins: micro
   * batches that waited for more are dropped. A checkpoint that is refused changes nothing.
   *
   * @returns what was saved as `clientState`
   */
  async loadCheckpoint(directory: string, tag?: string): Promise<Record<string, unknown>> {
    this.#requireOpen();
    const found = await locate(tag === undefined ? directory : join(directory, tag));
    if (!found) {
      throw new DeepSpeedError('CHECKPOINT_NOT_FOUND', `there is no checkpoint in ${directory}`, {
        data: { directory },
      });
    }
    if (this.#microBatch > 0) await this.#session.gradientsAtRest();
    const event = { ...found, state: {} as Record<string, unknown>, checkFirst: true };
    await this.#session.session.lifecycle.run('loadCheckpoint', event);
    const loop = event.state.loop as {
      step: number;
      skipped: number;
      rate: number | null;
      clientState: Record<string, unknown>;
    };
    this.#step = loop.step;
    this.#skipped = loop.skipped;
    this.#rate = loop.rate;
    this.#outcome = null;
    this.#beginStep();
    this.#writeBack();
    return loop.clientState;
  }

  /** Frees the engine. Without it everything is freed when the process ends. */
  async close(): Promise<void> {
    if (this.#state === 'failed') await this.#failed;
    if (this.#state !== 'open') return;
    this.#state = 'closed';
    await this.#session.session.lifecycle.run('shutdown', {});
    this.#runtime.close();
  }

  #finish(outcome: OptimizerOutcome, learningRate: number): void {
    const { lifecycle } = this.#session.session;
    if (outcome.skipped) {
      this.#skipped += 1;
      lifecycle.fire('stepSkipped', { step: this.#step, overflows: outcome.overflows });
    } else this.#writeBack();
    const losses = this.#losses;
    lifecycle.fire('metrics', {
      step: this.#step,
      loss: losses.reduce((sum, loss) => sum + loss, 0) / losses.length,
      learningRate,
      gradientNorm: outcome.gradientNorm,
      tokens: this.#microBatch,
      samples: this.#microBatch,
      skipped: outcome.skipped,
      lossScale: outcome.lossScale,
    });
    this.#beginStep();
  }

  /** Its first micro batch overwrites what earlier ones have added up. */
  #beginStep(): void {
    this.#microBatch = 0;
    this.#extra = 0;
    this.#losses = [];
    this.#plan = null;
    this.#last = {};
  }

  /** Ranks tell each other: one that refused alone would leave those waiting that do not. */
  async #requireBetweenSteps(): Promise<void> {
    const taken = await gatherJson(this.#runtime, this.#microBatch);
    if (taken.every((count) => count === 0)) return;
    const counts = taken.map((count, rank) => `${count} on rank ${rank}`).join(', ');
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      `saveCheckpoint() was called in the middle of step ${this.#step + 1}: micro batches that wait for its end: ${counts}`,
      {
        fix: 'Save after step() has returned true, on every rank.',
        data: { step: this.#step + 1, microBatches: taken },
      },
    );
  }

  /** @internal */
  #writeBack(): void {
    for (const [name, values] of this.#parameters) values.set(this.#session.parameter(name));
  }

  #requireOpen(): void {
    if (this.#state === 'open') return;
    throw new DeepSpeedError(
      'TRAINER_CLOSED',
      `this engine has ${this.#state === 'failed' ? 'failed' : 'been closed'}`,
    );
  }

  /** An error on this rank reaches the plugins, and the peers that would wait for it. */
  #guard<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (this.#state !== 'open') throw error;
      this.#state = 'failed';
      const failure = error instanceof Error ? error : new Error(String(error));
      this.#failed = this.#session.session.lifecycle
        .run('failed', { error: failure })
        .catch(() => {})
        .then(() => this.#runtime.close(failure.message));
      throw error;
    }
  }
}

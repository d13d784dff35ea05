import { DeepSpeedError } from '../errors.ts';
import type { Region, Work } from '../native/contract.ts';
import type { SegmentEvent, StepPlan } from './events.ts';
import type { Location } from './host.ts';

/**
 * Who holds the trainable parameters, or those that training does not change. Claimed by a strategy that
 * shards them, for hosts with "gatheredParameters"; without a claim every rank has all of them in one buffer.
 */
export interface ParameterOwner {
  /** `location` may differ between segments, and forward and backward are collective operations. */
  readonly gathers: boolean;
  /**
   * Where a pass of `segment` reads the value, in the parameter's shape: in the session's storage type where the
   * parameter `takes16Bits`, else fp32. It does not change.
   */
  location(parameter: string, segment: number, pass: SegmentEvent['pass']): Location;
  /** Works that a pass of `segment` must wait for; asked after its `acquire`. */
  ready(segment: number, pass: SegmentEvent['pass']): Work[];
  /**
   * Sets the value, before `parametersWritten`.
   *
   * @param read gives elements [start, start + count), row-major: asked for what this rank keeps only
   */
  write(parameter: string, read: (start: number, count: number) => Float32Array): void;
  /** After `write` on every rank: the ranks' values become equal. Null where they are by construction. */
  share(): Work | null;
  /**
   * The value that the model computes with, fp32. Between two passes. Where `gathers`, all ranks must ask
   * and get a copy, and the JS thread blocks; what is in 16 bits is a copy, too. Otherwise nothing is copied and it
   * changes with every step.
   */
  read(parameter: string): Float32Array;
}

/**
 * Who receives gradients. The host binds its backward to `location` once and asks `ready` before each
 * backward it enqueues; everything else (reduce, convert) the owner enqueues from its own taps.
 */
export interface GradientOwner {
  /** Where backward writes the gradient of a trainable parameter, fp32, the parameter's shape. */
  location(parameter: string): Location;
  /** Works that the backward of `segment` must wait for before it writes there. */
  ready(segment: number): Work[];
  /** False: every micro batch starts from zero, since what was there has already left. */
  readonly accumulatesLocally: boolean;
  /** The host multiplies the loss by it before backward; the optimizer divides it out. Constant within a step. */
  readonly lossScale: number;
  /** What the optimizer reads at the boundary, and the works after which it is complete. */
  reduced(): ReducedGradient;
}

export interface ReducedGradient {
  /** The sum over ranks, for the elements that this rank owns; null where it is on disk. */
  shard: Region | null;
  /** The sum for all elements, where every rank has it. */
  whole?: Region;
  after: Work[];
}

export interface OptimizerStepContext {
  readonly plan: StepPlan;
  /** Learning rate by parameter group. */
  readonly learningRates: readonly number[];
  /** What a OneCycle schedule sets; absent: the optimizer's own. */
  readonly betas?: readonly [number, number];
}

export interface OptimizerOutcome {
  gradientNorm: number;
  /** Non-finite gradient elements over all ranks; the step changed nothing when not 0. */
  overflows: number;
  /** The precision allows for overflows and there was one: training goes on with the next step. */
  skipped: boolean;
  /** fp16's factor on the loss in this step; 1 for other precisions. */
  lossScale: number;
}

/** Who updates the parameters at the accumulation boundary. */
export interface OptimizerStepOwner {
  /** Enqueues the step; the work ends when the next forward may begin. */
  enqueue(context: OptimizerStepContext): Work;
  /** What the last enqueued step found; valid once its work has ended. */
  outcome(): OptimizerOutcome;
}

/** Who holds the fp32 weights that the optimizer updates. Between two steps, and by all ranks alike. */
export interface WeightOwner {
  /** A copy of the whole tensor, row-major. */
  read(parameter: string): Promise<Float32Array>;
  /**
   * Sets it on every rank to what rank `from` gives.
   *
   * @param values of the tensor's length on every rank
   */
  write(parameter: string, values: Float32Array, from: number): Promise<void>;
}

export interface ClaimTypes {
  parameters: ParameterOwner;
  frozen: ParameterOwner;
  weights: WeightOwner;
  gradients: GradientOwner;
  optimizerStep: OptimizerStepOwner;
}

/** At most one owner for each claim; a second one is a startup error that names both plugins. */
export class Claims {
  readonly #owners = new Map<keyof ClaimTypes, { plugin: string; owner: unknown }>();

  claim<K extends keyof ClaimTypes>(name: K, plugin: string, owner: ClaimTypes[K]): void {
    const earlier = this.#owners.get(name);
    if (earlier) {
      throw new DeepSpeedError(
        'CLAIM_CONFLICT',
        `plugins "${earlier.plugin}" and "${plugin}" both claim ${name}; one session has one owner`,
        { data: { claim: name, plugins: [earlier.plugin, plugin] } },
      );
    }
    this.#owners.set(name, { plugin, owner });
  }

  owner<K extends keyof ClaimTypes>(name: K): ClaimTypes[K] | undefined {
    return this.#owners.get(name)?.owner as ClaimTypes[K] | undefined;
  }

  /** Plugin names by claim, for reports. */
  entries(): { claim: string; plugin: string }[] {
    return [...this.#owners].map(([claim, { plugin }]) => ({ claim, plugin }));
  }
}

import type { DeepSpeedError } from '../errors.ts';
import type { Work } from '../native/contract.ts';

/** What one micro batch is. `planStep` taps may return a changed copy. */
export interface StepPlan {
  readonly training: boolean;
  /** Optimizer steps taken before this one. */
  readonly step: number;
  /** 0-based within the accumulation of this step. */
  readonly microBatch: number;
  readonly microBatches: number;
  /**
   * Factors s on the residual of skippable segments: one with input x and output F(x) yields
   * x + s·(F(x) − x). 0: it does not run and none of its hooks fire, except `acquire` and `release` of its
   * backward where that is the place at which others of its activation checkpoint run again. The same on every
   * rank and in every micro batch of a step. Segments that are not named, and all where it is absent, run as they are.
   */
  readonly residualScales?: ReadonlyMap<number, number>;
}

/** True for a segment that the plan leaves out. */
export function isSkipped(plan: StepPlan, segment: number): boolean {
  return plan.residualScales?.get(segment) === 0;
}

/** True on the micro batch after which the optimizer steps. */
export function isBoundary(plan: StepPlan): boolean {
  return plan.training && plan.microBatch === plan.microBatches - 1;
}

/** Something happens to one segment; `acquire` carries no work yet. */
export interface SegmentEvent {
  readonly plan: StepPlan;
  /** Index in forward order. */
  readonly segment: number;
  readonly pass: 'forward' | 'backward';
}

export interface SegmentWorkEvent extends SegmentEvent {
  /** The enqueued run, the last one of the pass; it has not ended, perhaps not begun. */
  readonly work: Work;
}

/** What one optimizer step came to, over all ranks. */
export interface StepMetrics {
  /** Optimizer steps, this one and skipped ones included. */
  readonly step: number;
  /** Mean loss per target token over the whole global batch. */
  readonly loss: number;
  readonly learningRate: number;
  /** Global gradient norm before clipping; NaN for a skipped step. */
  readonly gradientNorm: number;
  /** Target tokens of the global batch. */
  readonly tokens: number;
  readonly samples: number;
  /** The step changed nothing: 16-bit gradients overflowed. */
  readonly skipped: boolean;
  /** What fp16 multiplied the loss by; 1 for other precisions. */
  readonly lossScale: number;
}

export interface StepSkipped {
  readonly step: number;
  /** Non-finite gradient elements over all ranks. */
  readonly overflows: number;
}

export interface EvaluationResult {
  readonly step: number;
  readonly metrics: Record<string, number>;
}

export interface CheckpointEvent {
  readonly directory: string;
  readonly tag: string;
  /** Host state to store, or, on load, what was stored. Plugins add their own key. */
  readonly state: Record<string, unknown>;
  /** Saving: leave out parameters that training does not change (DeepSpeed's exclude_frozen_parameters). */
  readonly excludeFrozenParameters?: boolean;
  /** Loading: read the files once before, so that a damaged one changes nothing. Without it the session is of no use then. */
  readonly checkFirst?: boolean;
  /** Saving: come back when writing has begun. */
  readonly background?: boolean;
  /** Saving: called on rank 0 once it is loadable. A failure is one of the save. */
  readonly onLoadable?: () => Promise<void>;
  /** Set by who wrote it. */
  written?: WrittenCheckpoint;
  /** Set by who writes it in the background. */
  pending?: PendingCheckpoint;
}

export interface WrittenCheckpoint {
  folder: string;
  /** Of all ranks. */
  bytes: number;
}

/** A checkpoint whose shards are being written from the memory that training uses. */
export interface PendingCheckpoint {
  /**
   * Ends, and never rejects, when this rank's shard has been read, which is done faster from now on. An update waits by
   * itself for what it changes.
   */
  read(): Promise<void>;
  /** This rank has ended its part, well or not: `proceed` would wait for others only. */
  readonly isReady: boolean;
  /**
   * Waits until all ranks are ready and begins the next part, at the same place on all ranks. A failure on one rank is the
   * same error on all.
   *
   * @returns null until the checkpoint is loadable
   */
  proceed(): Promise<WrittenCheckpoint | null>;
  /**
   * Where this rank has failed and agrees with nobody any more: waits for what it has begun by itself, and never rejects. The
   * checkpoint is loadable afterwards where that was all that was missing.
   */
  abandon(): Promise<void>;
}

export interface FailureEvent {
  readonly error: DeepSpeedError | Error;
}

/** Hot path: synchronous, fired when work is enqueued, never waiting. */
export interface HotHooks {
  planStep: StepPlan;
  acquire: SegmentEvent;
  forward: SegmentWorkEvent;
  backward: SegmentWorkEvent;
  release: SegmentWorkEvent;
  metrics: StepMetrics;
  stepSkipped: StepSkipped;
}

/** Cold path: asynchronous, one tap after the other. */
export interface ColdHooks {
  setup: Record<string, never>;
  /** The host has written initial values into the session's parameters, the same on all ranks. */
  parametersWritten: Record<string, never>;
  evaluate: EvaluationResult;
  saveCheckpoint: CheckpointEvent;
  loadCheckpoint: CheckpointEvent;
  /** Training ended with an error; `shutdown` does not follow. Peers may be gone: nothing to agree on here. */
  failed: FailureEvent;
  shutdown: Record<string, never>;
}

export type HookName = keyof HotHooks | keyof ColdHooks;

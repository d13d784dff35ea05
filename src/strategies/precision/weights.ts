import type { FlatLayout, Shard } from '../../layout.ts';
import type { NativeBuffer, NativeEngine, Region, Work } from '../../native/index.ts';
import type { HeldPart } from '../held.ts';
import type { StorageType } from './precision.ts';

/** The weights that the optimizer updates, and how they reach the memory that the model reads. */
export interface Weights {
  /** fp32 weights that this rank has, for checkpoints. */
  readonly stored: readonly HeldPart[];
  /** Before whoever looks at `stored`: brings it up to date, where a step does not. */
  settle?(): void;
  /** After the update: every rank's model sees every shard. */
  publish(updated: Work): Work;
  /** The host has written the model's memory, the same on all ranks. */
  adopt(): Work | null;
  /** A checkpoint was read into `stored`. */
  restore(): Work | null;
}

/** Weights that this rank has in memory. */
export interface MemoryWeights extends Weights {
  /** fp32, of the elements that the optimizer updates. */
  readonly master: Region;
  /** Where the optimizer writes them in 16 bits, too. */
  readonly copy16?: Region;
}

export interface WeightsOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  rank: number;
  worldSize: number;
  /** fp32, whole: what the model reads. Looked at where storage is fp32. */
  readonly parameters: NativeBuffer;
  /** What the model reads as it is stored, where storage is 16 bits. */
  takes16Bits: ReadonlySet<string>;
  /** Elements that this rank's optimizer updates. */
  updated: Shard;
  /** Elements of one all-gather; null: every rank updates everything. */
  gatherSize: number | null;
  storage: StorageType;
}

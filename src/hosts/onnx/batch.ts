import type { DataType } from '../../graph/index.ts';

/** One input of a model's graph for one micro batch. */
export interface Feed {
  dtype: DataType;
  /** The first one is the rows'. */
  dims: readonly number[];
  data: BigInt64Array | Float32Array | Int32Array | Uint8Array;
}

/** A micro batch, ready to be copied into the model's inputs. */
export interface Batch {
  /** By graph input; a graph need not take all of them. */
  feeds: Record<string, Feed>;
  /** Rows that came from the dataset; the others are filler that adds nothing. */
  samples: number;
  /** What the loss is a sum over: target tokens, or samples for a model with one loss a sample. */
  targets: number;
  /** Positions of the longest sample before padding, in models of one sequence a sample. */
  longest?: number;
  /** Which of the model's graphs the batch needs, where its shapes do not say so. */
  variant?: string;
  /** Index of each row's sample in the dataset, -1 for filler: what dropout's counters use. */
  sampleIndices: readonly number[];
}

/** How samples become a batch. */
export interface CollateOptions {
  /** Rows of the batch; missing ones become filler, so that the shape stays the compiled one. */
  rows: number;
  /** Lengths are rounded up to a multiple of this, so that few shapes are compiled. */
  padToMultipleOf: number;
}

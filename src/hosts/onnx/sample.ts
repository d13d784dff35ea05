/** One sample, in the names people know from Hugging Face. Arrays of token ids, one per position. */
export interface Sample {
  input_ids: ArrayLike<number>;
  /**
   * Target of each position before the shift, as in Hugging Face: the model learns to predict
   * labels[t + 1] at position t. −100 is ignored. Absent: the input itself.
   */
  labels?: ArrayLike<number>;
  /** 1 where a token is real. Absent: everywhere. */
  attention_mask?: ArrayLike<number>;
}

/**
 * One sample's value for one input of a graph, without the row dimension. A number is a scalar; an
 * array without `dims` takes the shape that the graph declares, or, nested, the shape of the nesting.
 */
export type SampleValue =
  | number
  | bigint
  | boolean
  | ArrayLike<number | bigint>
  | readonly SampleValue[]
  | { readonly data: ArrayLike<number | bigint>; readonly dims: readonly number[] };

/** A sample for a graph of the user's own: a value for every input of the graph, and the targets. */
export interface TensorSample {
  readonly [name: string]: SampleValue;
}

/** What a dataset may hold; the model says what it needs of it. */
export type AnySample = Sample | TensorSample;

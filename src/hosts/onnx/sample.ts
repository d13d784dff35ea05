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

/** One sample of a language model: a value for each position, by field. */
export type TokenFields = Record<string, ArrayLike<number>>;

/** What `padToBlockSize` makes of a sample. */
export interface PaddedSample<F extends TokenFields> {
  /** Positions added at the end. */
  padLength: number;
  /** The fields lengthened; `attention_mask` is added where there was none. */
  fields: { [K in keyof F]: number[] } & { attention_mask: number[] };
}

/** What padding holds: nothing attends to it, and nothing is learnt from it. */
const fillers: Readonly<Record<string, number>> = {
  attention_mask: 0,
  token_type_ids: 0,
  labels: -100,
};

/**
 * Lengthens a sample to a multiple of a layout's block, as DeepSpeed's `pad_to_block_size` does: token and
 * position ids by `padTokenId`, token types by 0, labels by -100, and the attention mask by 0.
 *
 * @param fields `input_ids` and whatever else has a value for each position
 *
 * @example
 * const { fields } = padToBlockSize(16, { input_ids, labels });
 */
export function padToBlockSize<F extends TokenFields & { input_ids: ArrayLike<number> }>(
  block: number,
  fields: F,
  padTokenId = 0,
): PaddedSample<F> {
  const { length } = fields.input_ids;
  const padLength = (block - (length % block)) % block;
  const given: TokenFields = { attention_mask: new Uint8Array(length).fill(1), ...fields };
  const padded = Object.entries(given).map(([name, values]) => {
    const filler = fillers[name] ?? padTokenId;
    return [name, [...Array.from(values), ...new Array<number>(padLength).fill(filler)]];
  });
  return { padLength, fields: Object.fromEntries(padded) as PaddedSample<F>['fields'] };
}

/** Takes the padding off an output [positions, ...], row-major. */
export function unpadOutput(
  output: Float32Array,
  positions: number,
  padLength: number,
): Float32Array {
  return output.subarray(0, (output.length / positions) * (positions - padLength));
}

import { DeepSpeedError } from '../../errors.ts';
import type { Batch, CollateOptions } from './batch.ts';
import type { AnySample, Sample } from './sample.ts';

/** The label that counts for nothing. */
export const ignoreIndex = -100;

/** What of a causal language model its batches depend on. */
export interface TokenLimits {
  /** Token that fills what is shorter; its positions are never targets. */
  padTokenId: number;
  /** Longest sequence the model takes; a longer sample is an error. */
  maxLength: number;
  vocabSize: number;
}

/** A batch in which a token before a row's last real one is masked: causality alone does not hide it. */
export const maskedVariant = 'masked';

/**
 * A causal language model's batch: samples padded on the right to one shape, labels shifted by one
 * position. Feeds are int64 [rows, length].
 */
export function collateTokens(
  given: readonly AnySample[],
  indices: readonly number[],
  { rows, padToMultipleOf }: CollateOptions,
  { padTokenId, maxLength, vocabSize }: TokenLimits,
): Batch {
  const samples = given.map((sample, row) => checkSample(sample, indices[row]!));
  for (const [row, { input_ids: ids }] of samples.entries()) {
    if (ids.length <= maxLength) continue;
    throw invalid(
      indices[row]!,
      `${ids.length} tokens, the model takes at most ${maxLength}`,
      'Cut the text into shorter samples (tokenBlocks does), or use a longer model.',
    );
  }
  const longest = Math.max(1, ...samples.map((sample) => sample.input_ids.length));
  const length = Math.min(maxLength, Math.ceil(longest / padToMultipleOf) * padToMultipleOf);
  const inputIds = new BigInt64Array(rows * length).fill(BigInt(padTokenId));
  const targets = new BigInt64Array(rows * length).fill(BigInt(ignoreIndex));
  const attentionMask = new BigInt64Array(rows * length);
  let targetTokens = 0;
  let masked = false;
  for (const [row, sample] of samples.entries()) {
    const { input_ids: ids, labels = ids, attention_mask: mask } = sample;
    const start = row * length;
    const token = (id: number) => BigInt(checkToken(id, vocabSize, indices[row]!));
    let hidden = false;
    for (let position = 0; position < ids.length; position += 1) {
      inputIds[start + position] = token(ids[position]!);
      const visible = (mask?.[position] ?? 1) !== 0;
      attentionMask[start + position] = visible ? 1n : 0n;
      if (visible && hidden) masked = true;
      hidden ||= !visible;
      if (position === 0) continue;
      const label = labels[position]!;
      if (label === ignoreIndex || !visible) continue;
      targets[start + position - 1] = token(label);
      targetTokens += 1;
    }
  }
  // A row without any real token would make attention over an empty set; one visible token suffices.
  for (let row = samples.length; row < rows; row += 1) attentionMask[row * length] = 1n;
  const dims = [rows, length];
  return {
    feeds: {
      input_ids: { dtype: 'int64', dims, data: inputIds },
      labels: { dtype: 'int64', dims, data: targets },
      attention_mask: { dtype: 'int64', dims, data: attentionMask },
    },
    samples: samples.length,
    targets: targetTokens,
    longest,
    ...(masked && { variant: maskedVariant }),
    sampleIndices: Array.from({ length: rows }, (_, row) => indices[row] ?? -1),
  };
}

/** Throws, naming the sample, for what a language model cannot take. */
export function checkSample(given: AnySample, index: number): Sample {
  const sample = given as Sample;
  const length = sample?.input_ids?.length;
  if (typeof length !== 'number' || length === 0) {
    throw invalid(
      index,
      'no input_ids; a sample is { input_ids: number[], labels?, attention_mask? }',
    );
  }
  for (const key of ['labels', 'attention_mask'] as const) {
    const other = sample[key];
    if (other && other.length !== length) {
      throw invalid(index, `${key} has ${other.length} entries, input_ids ${length}`);
    }
  }
  return sample;
}

function checkToken(token: number, vocabSize: number, index: number): number {
  if (Number.isInteger(token) && token >= 0 && token < vocabSize) return token;
  throw invalid(
    index,
    `token ${token} is not in the model's vocabulary of ${vocabSize}`,
    'Use the tokenizer that belongs to the model.',
  );
}

/** @param index in the dataset; below 0 for tokens that are no sample of one, such as a prompt */
function invalid(index: number, what: string, fix?: string): DeepSpeedError {
  const message = index < 0 ? what : `sample ${index}: ${what}`;
  return new DeepSpeedError('DATASET_INVALID', message, {
    ...(fix !== undefined && { fix }),
    data: { index },
  });
}

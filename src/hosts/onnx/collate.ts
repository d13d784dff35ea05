import { DeepSpeedError } from '../../errors.ts';
import type { DataType } from '../../graph/index.ts';
import type { Sample } from './sample.ts';

export const ignoreIndex = -100;

/** One input of the model for one micro batch. */
export interface Feed {
  dtype: DataType;
  dims: readonly number[];
  data: BigInt64Array | Float32Array | Int32Array | Uint8Array;
}

/** A micro batch, ready to be copied into the model's inputs. */
export interface Batch {
  /** By graph input. */
  feeds: Record<string, Feed>;
  /** Rows that came from the dataset; the others are filler that adds nothing. */
  samples: number;
  /** What the loss is a sum over: target tokens, or samples for a model with one loss a sample. */
  targets: number;
  /** True when a token before a row's last real one is masked: causality alone does not hide it. */
  masked: boolean;
  /** Index of each row's sample in the dataset, -1 for filler: what dropout's counters use. */
  sampleIndices: readonly number[];
}

export interface CollateOptions {
  /** Token that fills what is shorter; its positions are never targets. */
  padTokenId: number;
  /** Lengths are rounded up to a multiple of this, so that few shapes are compiled. */
  padToMultipleOf: number;
  /** Longest sequence the model takes; a longer sample is an error. */
  maxLength: number;
  /** Rows of the batch; missing ones become filler, so that the shape stays the compiled one. */
  rows: number;
  vocabSize: number;
}

/**
 * A causal language model's batch: samples padded on the right to one shape, labels shifted by one
 * position. Feeds are int64 [rows, length].
 */
export function collate(
  samples: readonly Sample[],
  indices: readonly number[],
  options: CollateOptions,
): Batch {
  const { rows, padTokenId, padToMultipleOf, maxLength } = options;
  const longest = Math.max(1, ...samples.map((sample) => sample.input_ids.length));
  if (longest > maxLength) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `a sample has ${longest} tokens, the model takes at most ${maxLength}`,
      { fix: 'Cut the text into shorter samples (tokenBlocks does), or use a longer model.' },
    );
  }
  const length = Math.min(maxLength, Math.ceil(longest / padToMultipleOf) * padToMultipleOf);
  const inputIds = new BigInt64Array(rows * length).fill(BigInt(padTokenId));
  const targets = new BigInt64Array(rows * length).fill(BigInt(ignoreIndex));
  const attentionMask = new BigInt64Array(rows * length);
  let targetTokens = 0;
  let masked = false;
  for (const [row, sample] of samples.entries()) {
    const { input_ids: ids, labels = ids, attention_mask: mask } = sample;
    const start = row * length;
    let hidden = false;
    for (let position = 0; position < ids.length; position += 1) {
      inputIds[start + position] = BigInt(checkToken(ids[position]!, options.vocabSize));
      const visible = (mask?.[position] ?? 1) !== 0;
      attentionMask[start + position] = visible ? 1n : 0n;
      if (visible && hidden) masked = true;
      hidden ||= !visible;
      if (position === 0) continue;
      const label = labels[position]!;
      if (label === ignoreIndex || !visible) continue;
      targets[start + position - 1] = BigInt(checkToken(label, options.vocabSize));
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
    masked,
    sampleIndices: Array.from({ length: rows }, (_, row) => indices[row] ?? -1),
  };
}

function checkToken(token: number, vocabSize: number): number {
  if (Number.isInteger(token) && token >= 0 && token < vocabSize) return token;
  throw new DeepSpeedError(
    'DATASET_INVALID',
    `token ${token} is not in the model's vocabulary of ${vocabSize}`,
    { fix: 'Use the tokenizer that belongs to the model.' },
  );
}

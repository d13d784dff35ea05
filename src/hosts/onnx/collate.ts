import { DeepSpeedError } from '../../errors.ts';
import type { Sample } from './dataset.ts';

export const ignoreIndex = -100;

/** Token ids of a micro batch, ready to be copied into the model's inputs. Row-major [rows, length]. */
export interface Batch {
  rows: number;
  /** Rows that came from the dataset; the others are filler whose targets are all ignored. */
  samples: number;
  length: number;
  inputIds: BigInt64Array;
  /** Shifted: the target of each position, −100 where there is none. */
  targets: BigInt64Array;
  attentionMask: BigInt64Array;
  /** True when a token before a row's last real one is masked: causality alone does not hide it. */
  masked: boolean;
  /** Targets that count. */
  targetTokens: number;
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

/** Pads samples on the right to one shape and shifts labels by one position. */
export function collate(samples: readonly Sample[], options: CollateOptions): Batch {
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
  return {
    rows,
    samples: samples.length,
    length,
    inputIds,
    targets,
    attentionMask,
    masked,
    targetTokens,
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

import { DeepSpeedError } from '../errors.ts';
import type { Training } from './setup.ts';

/**
 * Greedy continuation with the weights as they are now: the whole sequence is computed anew for every
 * token, in the training graph's own arithmetic. For looking at a model during training; to serve one,
 * `saveModel` and load the folder with transformers.js, which keeps a cache.
 *
 * @returns the prompt and up to `maxNewTokens` more token ids
 */
export async function generateGreedy(
  training: Training,
  prompt: readonly number[],
  { maxNewTokens, eosTokenId }: { maxNewTokens: number; eosTokenId?: number | undefined },
  step: number,
  maxLength: number,
): Promise<number[]> {
  requireGeneration(prompt, maxNewTokens, maxLength);
  const tokens = [...prompt];
  const end = Math.min(maxLength, prompt.length + maxNewTokens);
  // One shape for the whole generation: one compilation.
  const padded = new Int32Array(end);
  while (tokens.length < end) {
    padded.set(tokens);
    const sample = { input_ids: padded, labels: new Int32Array(end).fill(-100) };
    const batch = training.collate({ samples: [sample], indices: [-1] }, 1);
    const { outputs } = await training.host.evaluate(batch, step, ['logits']);
    const { data, dims } = outputs.get('logits')!;
    const vocabulary = dims[2]!;
    const row = data.subarray((tokens.length - 1) * vocabulary, tokens.length * vocabulary);
    const next = argmax(row);
    tokens.push(next);
    if (next === eosTokenId) break;
  }
  return tokens;
}

function requireGeneration(
  prompt: readonly number[],
  maxNewTokens: number,
  maxLength: number,
): void {
  const wrong = problemOf(prompt, maxNewTokens, maxLength);
  if (wrong === undefined) return;
  throw new DeepSpeedError('ARGUMENTS_INVALID', `generate(): ${wrong}`, {
    fix: 'Give generate() 1 to n_positions token ids, such as those of tokenizer.encode(text).',
  });
}

function problemOf(
  prompt: readonly number[],
  maxNewTokens: number,
  maxLength: number,
): string | undefined {
  if (!(prompt?.length > 0)) {
    return 'the prompt is empty: a causal language model continues at least one token';
  }
  if (!Array.from(prompt).every(Number.isInteger)) {
    return 'the prompt holds something that is no token id; encode text with a tokenizer';
  }
  if (prompt.length > maxLength) {
    return `the prompt has ${prompt.length} tokens, the model takes at most ${maxLength}`;
  }
  if (Number.isInteger(maxNewTokens) && maxNewTokens >= 0) return undefined;
  return `maxNewTokens is ${maxNewTokens}, expected a whole number of at least 0`;
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let index = 1; index < values.length; index += 1) {
    if (values[index]! > values[best]!) best = index;
  }
  return best;
}

/** Byte-level BPE tokenizers: training, files, encoding. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import { refuseUnknownKeys } from '../../nearest.ts';
import { parseTokenizerJson } from './parse.ts';
import { type SaveTokenizerOptions, saveTokenizer } from './save.ts';
import { BpeTokenizer, type Tokenizer } from './tokenizer.ts';
import { type TrainTokenizerOptions, trainBpe } from './train.ts';

export { BpeTokenizer, type Tokenizer } from './tokenizer.ts';
export { saveTokenizer, type SaveTokenizerOptions } from './save.ts';
export { type TrainedBpe, trainBpe, type TrainTokenizerOptions } from './train.ts';

const trainOptions: readonly (keyof (TrainTokenizerOptions & SaveTokenizerOptions))[] = [
  'vocabSize',
  'specialTokens',
  'minFrequency',
  'modelMaxLength',
];

/**
 * Trains a tokenizer on texts, writes it into `dir` and returns it ready to use.
 *
 * @example
 * const tokenizer = await trainTokenizer(chapters, 'out/tokenizer', { vocabSize: 4096 });
 */
export async function trainTokenizer(
  texts: Iterable<string>,
  dir: string,
  options: TrainTokenizerOptions & SaveTokenizerOptions,
): Promise<Tokenizer> {
  refuseUnknownKeys(options, trainOptions, 'trainTokenizer');
  await saveTokenizer(trainBpe(texts, options), dir, options);
  return loadTokenizer(dir);
}

/**
 * Loads the tokenizer of a folder: tokenizer.json, and tokenizer_config.json for the end token.
 *
 * @throws TOKENIZER_INVALID when there is none, or it is not a byte-level BPE (named).
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const path = join(dir, 'tokenizer.json');
  const definition = parseTokenizerJson(await readJson(path), path);
  const config = await readJson(join(dir, 'tokenizer_config.json'), {});
  const eos = config.eos_token as string | { content?: string } | null | undefined;
  const token = typeof eos === 'object' ? eos?.content : eos;
  return new BpeTokenizer(definition, token);
}

async function readJson(
  path: string,
  absent?: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (missing && absent !== undefined) return absent;
    throw new DeepSpeedError(
      'TOKENIZER_INVALID',
      missing ? `${path} does not exist` : `${path} cannot be read: ${(cause as Error).message}`,
      { cause, data: { path } },
    );
  }
}

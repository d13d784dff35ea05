/** Writing a trained tokenizer in Hugging Face's files, which transformers.js and `transformers` read. */
import { join } from 'node:path';
import { makeFolder } from '../../folders.ts';
import { writable, writeJson } from '../save.ts';
import type { TrainedBpe } from './train.ts';

export interface SaveTokenizerOptions {
  /** The longest sequence of the model it belongs to, in tokens. */
  modelMaxLength?: number;
}

/**
 * Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `dir`. The first special
 * token is the begin, end, unknown and padding token, as in GPT-2; no tokens are added around a text.
 *
 * @throws OUTPUT_NOT_WRITABLE
 */
export async function saveTokenizer(
  bpe: TrainedBpe,
  dir: string,
  options: SaveTokenizerOptions = {},
): Promise<void> {
  const special = bpe.specialTokens[0];
  const roles =
    special === undefined
      ? {}
      : { bos_token: special, eos_token: special, unk_token: special, pad_token: special };
  const config = {
    tokenizer_class: 'GPT2Tokenizer',
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    ...(options.modelMaxLength === undefined ? {} : { model_max_length: options.modelMaxLength }),
    ...roles,
  };
  await writable(dir, async () => makeFolder(dir));
  await writeJson(join(dir, 'tokenizer.json'), tokenizerJson(bpe));
  await writeJson(join(dir, 'tokenizer_config.json'), config);
  await writeJson(join(dir, 'special_tokens_map.json'), roles);
}

function tokenizerJson({ vocab, merges, specialTokens }: TrainedBpe): object {
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content) => ({
      id: vocab.get(content),
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab),
      merges,
    },
  };
}

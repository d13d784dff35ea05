/** Reading tokenizer.json: what of it is understood, and the refusal of what is not. */
import { DeepSpeedError } from '../../errors.ts';
import { byteAlphabet } from './byte-alphabet.ts';
import { gpt2Pattern } from './pieces.ts';

export interface BpeDefinition {
  vocab: ReadonlyMap<string, number>;
  merges: readonly (readonly [string, string])[];
  /** Cut out of the text before everything else; `special` ones may be left out when decoding. */
  addedTokens: readonly { id: number; content: string; special: boolean }[];
  /** Applied one after the other, each to the pieces of the one before. */
  patterns: readonly RegExp[];
  addPrefixSpace: boolean;
  /** A piece that is a token as a whole is taken without looking at merges. */
  ignoreMerges: boolean;
  normalizer: 'NFC' | null;
}

type Json = Record<string, unknown>;

/** @throws TOKENIZER_INVALID naming the part of the file that byte-level BPE does not cover. */
export function parseTokenizerJson(json: Json, where: string): BpeDefinition {
  const refuse = (what: string) =>
    new DeepSpeedError('TOKENIZER_INVALID', `${where}: ${what}`, { data: { path: where } });
  const model = object(json.model);
  // Old files have no type; their merges say that they are BPE.
  if ((model.type ?? 'BPE') !== 'BPE' || !Array.isArray(model.merges)) {
    throw refuse(`model type ${JSON.stringify(model.type)}, expected a byte-level BPE`);
  }
  for (const key of ['dropout', 'continuing_subword_prefix', 'end_of_word_suffix']) {
    if (model[key]) throw refuse(`model.${key} ${JSON.stringify(model[key])} is not available`);
  }
  const vocab = new Map(Object.entries(object(model.vocab)) as [string, number][]);
  const missing = byteAlphabet.findIndex((character) => !vocab.has(character));
  if (missing >= 0) throw refuse(`byte ${missing} has no token: it is not a byte-level BPE`);
  return {
    vocab,
    merges: model.merges.map((merge) => parseMerge(merge, vocab, refuse)),
    addedTokens: parseAddedTokens(json.added_tokens, refuse),
    ...parsePreTokenizer(json.pre_tokenizer, refuse),
    ignoreMerges: model.ignore_merges === true,
    normalizer: parseNormalizer(json.normalizer, refuse),
  };
}

type Refuse = (what: string) => DeepSpeedError;

/** A pair, or in files of before 2024 one string with a blank between. */
function parseMerge(
  merge: unknown,
  vocab: ReadonlyMap<string, number>,
  refuse: Refuse,
): [string, string] {
  const [left, right] = typeof merge === 'string' ? merge.split(' ') : (merge as string[]);
  if (left === undefined || right === undefined || !vocab.has(left + right)) {
    throw refuse(`merge ${JSON.stringify(merge)} makes no token of the vocabulary`);
  }
  return [left, right];
}

function parseAddedTokens(list: unknown, refuse: Refuse): BpeDefinition['addedTokens'] {
  if (!Array.isArray(list)) return [];
  return list.map((item) => {
    const { id, content, special, ...flags } = object(item);
    if (typeof id !== 'number' || typeof content !== 'string' || content === '') {
      throw refuse(`added token ${JSON.stringify(item)} is malformed`);
    }
    for (const flag of ['lstrip', 'rstrip', 'single_word']) {
      if (flags[flag] === true) throw refuse(`${flag} of added token ${content} is not available`);
    }
    return { id, content, special: special === true };
  });
}

function parsePreTokenizer(
  value: unknown,
  refuse: Refuse,
): Pick<BpeDefinition, 'patterns' | 'addPrefixSpace'> {
  const node = object(value);
  const steps = node.type === 'Sequence' ? (node.pretokenizers as unknown[]) : [node];
  const patterns: RegExp[] = [];
  let addPrefixSpace: boolean | undefined;
  for (const step of steps.map(object)) {
    if (step.type === 'ByteLevel') {
      addPrefixSpace = step.add_prefix_space === true;
      if (step.use_regex !== false) patterns.push(gpt2Pattern);
    } else if (step.type === 'Split' && step.behavior === 'Isolated' && step.invert !== true) {
      patterns.push(compilePattern(object(step.pattern), refuse));
    } else {
      throw refuse(`pre_tokenizer ${JSON.stringify(step.type)} is not available`);
    }
  }
  if (addPrefixSpace === undefined) throw refuse('pre_tokenizer has no ByteLevel step');
  return { patterns, addPrefixSpace };
}

/** JavaScript before 2025 has no `(?i:...)`; its letters are spelt out in both cases. */
function compilePattern(pattern: Json, refuse: Refuse): RegExp {
  if (typeof pattern.String === 'string') {
    return new RegExp(pattern.String.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'gu');
  }
  const source = String(pattern.Regex).replace(
    /\(\?i:([^()\\[\]]*)\)/g,
    (_, body: string) =>
      `(?:${body.replace(/\p{L}/gu, (c) => `[${c.toLowerCase()}${c.toUpperCase()}]`)})`,
  );
  try {
    return new RegExp(source, 'gu');
  } catch (cause) {
    throw refuse(`the pattern ${pattern.Regex} is not one that JavaScript has: ${cause}`);
  }
}

function parseNormalizer(value: unknown, refuse: Refuse): 'NFC' | null {
  if (value === null || value === undefined) return null;
  if (object(value).type === 'NFC') return 'NFC';
  throw refuse(`normalizer ${JSON.stringify(object(value).type)} is not available`);
}

function object(value: unknown): Json {
  return typeof value === 'object' && value !== null ? (value as Json) : {};
}

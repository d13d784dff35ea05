/**
 * compressed-loss.ts CASE CORPUS: one of the ranks that train the demo's model; rank 0 prints the validation loss last.
 * CASE: steps, seed and deepspeed as JSON; CORPUS: a file with what bench/corpus.ts gives, as JSON.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AutoModelForCausalLM, Trainer, tokenBlocks } from '../../src/transformers.ts';
import type { Corpus } from '../corpus.ts';

const { steps, seed, deepspeed } = JSON.parse(process.argv[2]!) as {
  steps: number;
  seed: number;
  deepspeed: Record<string, unknown>;
};
const corpus = JSON.parse(readFileSync(process.argv[3]!, 'utf8')) as Corpus;
const length = 128;
const trainer = new Trainer({
  model: AutoModelForCausalLM.fromConfig({
    model_type: 'gpt2',
    vocab_size: corpus.vocabulary,
    n_positions: length,
    n_embd: 256,
    n_layer: 4,
    n_head: 4,
    embd_pdrop: 0,
    attn_pdrop: 0,
    resid_pdrop: 0,
  }),
  trainDataset: tokenBlocks(corpus.train, length),
  evalDataset: tokenBlocks(corpus.held.slice(0, 20_000), length),
  args: {
    outputDir: join(dirname(process.argv[3]!), 'out'),
    deepspeed,
    seed,
    maxSteps: steps,
    perDeviceTrainBatchSize: 4,
    lrSchedulerType: 'cosine',
    warmupSteps: steps / 10,
    saveStrategy: 'no',
    reportTo: [],
    disableTqdm: true,
  },
});
await trainer.train();
const { eval_loss } = await trainer.evaluate();
await trainer.close();
console.log(`\nvalidation loss ${eval_loss}`);

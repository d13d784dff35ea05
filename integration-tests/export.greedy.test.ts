import { AutoModelForCausalLM, env, Tensor } from '@huggingface/transformers';
import { expect, it } from 'vitest';
import { play } from './fixtures/training/scenario.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const tinyLlama = {
  model_type: 'llama',
  vocab_size: 61,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 32,
};

it.each([
  ['gpt2', tinyGpt2],
  ['llama', tinyLlama],
])(
  'a trained %s that is exported says in transformers.js what it says in the trainer',
  async (_, model) => {
    const saveTo = temporaryFolder();
    const prompt = [3, 24, 49];
    const maxNewTokens = 20;
    const { generated } = await play({
      model,
      samples: raggedSamples(64),
      args: { outputDir: temporaryFolder(), maxSteps: 60, learningRate: 1e-2 },
      generate: { prompt, maxNewTokens },
      saveTo,
    });
    expect(generated).toHaveLength(prompt.length + maxNewTokens);
    // Training has left its mark: the text is not one token over and over.
    expect(new Set(generated.slice(prompt.length)).size).toBeGreaterThan(3);

    env.allowRemoteModels = false;
    const exported = await AutoModelForCausalLM.from_pretrained(saveTo, { dtype: 'fp32' });
    try {
      const output = (await exported.generate({
        inputs: new Tensor('int64', BigInt64Array.from(prompt, BigInt), [1, prompt.length]),
        max_new_tokens: maxNewTokens,
        do_sample: false,
      })) as Tensor;
      expect(Array.from(output.data as BigInt64Array, Number)).toEqual(generated);
    } finally {
      await exported.dispose();
    }
  },
);

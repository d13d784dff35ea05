import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';
import * as ort from 'onnxruntime-node';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toNumbers } from '../graph/tensor.ts';
import { exportOnnx } from './export-onnx.ts';
import { initializeParameters } from './init.ts';
import { modelParameters, parseModelConfig, type ModelConfig } from './config.ts';
import { initialSource, type ParameterSource, tensorSource } from './parameter-source.ts';
import {
  encodeGraphAsModel,
  goldenCases,
  int64,
  int64Of,
  loadGolden,
  maxDifference,
} from './testing/goldens.ts';
import { loadTokenizer, type Tokenizer, trainTokenizer } from './tokenizer/index.ts';
import { buildTrainingGraph } from './training-graph.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dsjs-export-'));
  env.allowRemoteModels = false;
});
afterEach(() => rm(dir, { recursive: true }));

describe.each(goldenCases)('export of %s', (name) => {
  const golden = loadGolden(name);
  const sources = new Map(
    [...golden.parameters].map(([key, tensor]) => [key, tensorSource(tensor)]),
  );

  it('computes the logits of PyTorch, at once and token by token through the cache', async () => {
    await exportOnnx(golden.config, sources, dir);
    const session = await ort.InferenceSession.create(join(dir, 'onnx/model.onnx'));
    const ids = golden.tensors.get('input_ids')!;
    const [rows, length] = ids.dims as [number, number];
    const expected = toNumbers(golden.tensors.get('logits')!);
    const vocab = golden.config.vocabSize;
    const column = (tensor: ort.Tensor, t: number) =>
      int64(
        [rows, 1],
        Array.from({ length: rows }, (_, r) => Number(tensor.data[r * length + t])),
      );

    const whole = await session.run({
      ...emptyCache(golden.config, rows),
      input_ids: int64Of(ids),
      attention_mask: filled(rows, length, () => 1),
      position_ids: filled(rows, length, (t) => t),
    });
    expectClose(whole.logits!.data as Float32Array, expected);

    let cache = emptyCache(golden.config, rows);
    for (let t = 0; t < length; t++) {
      const step = await session.run({
        ...cache,
        input_ids: column(int64Of(ids), t),
        attention_mask: filled(rows, t + 1, () => 1),
        position_ids: filled(rows, 1, () => t),
      });
      for (let r = 0; r < rows; r++) {
        const at = (r * length + t) * vocab;
        const logits = step.logits!.data.slice(r * vocab, (r + 1) * vocab) as Float32Array;
        expectClose(logits, expected.slice(at, at + vocab));
      }
      cache = Object.fromEntries(
        Object.entries(step)
          .filter(([key]) => key.startsWith('present'))
          .map(([key, value]) => [key.replace('present', 'past_key_values'), value]),
      );
    }
    await session.release();
  });
});

describe.each([
  ['gpt2', { model_type: 'gpt2', n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64 }],
  [
    'llama',
    {
      model_type: 'llama',
      hidden_size: 32,
      intermediate_size: 48,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 64,
    },
  ],
])('transformers.js runs an exported %s', (_, fields) => {
  // A wide initialisation, so that greedy decoding is decided by margins and wanders over the vocabulary.
  const config = parseModelConfig({
    ...fields,
    vocab_size: 300,
    initializer_range: 0.3,
    bos_token_id: 0,
    eos_token_id: 0,
  });
  const sources = new Map(
    modelParameters(config).map((spec) => [spec.name, initialSource(spec, 3)]),
  );
  const text = 'It was the whiteness of the whale that above all things appalled me. '.repeat(9);
  const prompts = ['It was the whale', 'the', 'all things of the whiteness'];
  const newTokens = 16;

  it.each([false, true])('with external data: %s', async (externalData) => {
    const tokenizer = await trainTokenizer([text], dir, { vocabSize: 300 });
    await exportOnnx(config, sources, dir, { externalData });
    expect(await readdir(join(dir, 'onnx'))).toEqual(
      externalData ? ['model.onnx', 'model.onnx_data'] : ['model.onnx'],
    );
    const generate = await pipeline('text-generation', dir, { dtype: 'fp32' });
    const options = { max_new_tokens: newTokens, do_sample: false, return_full_text: true };
    const expected = await Promise.all(
      prompts.map((prompt) => greedyByRecomputing(config, sources, tokenizer, prompt)),
    );
    for (const [i, prompt] of prompts.entries()) {
      const [output] = (await generate(prompt, options)) as { generated_text: string }[];
      expect(output!.generated_text).toBe(expected[i]);
    }
    // One batch of prompts of three lengths: padded on the left.
    const batch = (await generate(prompts, options)) as { generated_text: string }[][];
    expect(batch.map(([output]) => output!.generated_text)).toEqual(expected);
    await generate.dispose();
  });

  /** The simplest decoding there is: the training graph on the whole text, once per token. */
  async function greedyByRecomputing(
    model: ModelConfig,
    parameters: ReadonlyMap<string, ParameterSource>,
    tokenizer: Tokenizer,
    prompt: string,
  ): Promise<string> {
    const tensors = initializeParameters(model, { seed: 3 });
    expect([...tensors.keys()]).toEqual([...parameters.keys()]);
    const graph = buildTrainingGraph(model, { parameters: tensors, dropout: false });
    const session = await ort.InferenceSession.create(encodeGraphAsModel(graph));
    const ids = tokenizer.encode(prompt);
    for (let n = 0; n < newTokens; n++) {
      const input = int64([1, ids.length], ids);
      const { logits } = await session.run({ input_ids: input, labels: input });
      const last = (logits!.data as Float32Array).subarray(-model.vocabSize);
      const next = last.indexOf(Math.max(...last));
      ids.push(next);
      if (next === tokenizer.eosTokenId) break;
    }
    await session.release();
    // Else equality would say little: an untrained model may repeat one token.
    expect(new Set(ids.slice(-newTokens)).size).toBeGreaterThan(2);
    return tokenizer.decode(ids, { skipSpecialTokens: true });
  }
});

it('writes what transformers.js needs to know into the configs', async () => {
  const config = parseModelConfig({
    model_type: 'gpt2',
    n_layer: 1,
    n_embd: 24,
    vocab_size: 9,
    eos_token_id: 5,
  });
  const sources = new Map(modelParameters(config).map((s) => [s.name, initialSource(s, 1)]));
  await exportOnnx(config, sources, dir);
  const json = async (file: string) => JSON.parse(await readFile(join(dir, file), 'utf8'));
  expect(await json('config.json')).toMatchObject({
    model_type: 'gpt2',
    architectures: ['GPT2LMHeadModel'],
    n_layer: 1,
    n_head: 12,
    n_embd: 24,
  });
  expect(await json('generation_config.json')).toEqual({
    _from_model_config: true,
    eos_token_id: 5,
    pad_token_id: 5,
  });
  await expect(loadTokenizer(dir)).rejects.toThrow(/tokenizer.json/);
  sources.delete('transformer.wpe.weight');
  await expect(exportOnnx(config, sources, dir)).rejects.toThrow(
    /wpe.weight \[1024,24\] is missing/,
  );
});

function emptyCache(config: ModelConfig, rows: number): Record<string, ort.Tensor> {
  const [heads, width] =
    config.modelType === 'gpt2'
      ? [config.heads, config.width / config.heads]
      : [config.kvHeads, config.headWidth];
  const names = Array.from({ length: config.layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const empty = () => new ort.Tensor('float32', new Float32Array(0), [rows, heads, 0, width]);
  return Object.fromEntries(names.map((name) => [`past_key_values.${name}`, empty()]));
}

function filled(rows: number, length: number, value: (t: number) => number): ort.Tensor {
  return int64(
    [rows, length],
    Array.from({ length: rows * length }, (_, i) => value(i % length)),
  );
}

function expectClose(actual: ArrayLike<number>, expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  expect(maxDifference(actual, expected)).toBeLessThan(1e-4);
}

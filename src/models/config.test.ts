import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DeepSpeedError } from '../errors.ts';
import { loadModelConfig, modelParameters, parseModelConfig } from './config.ts';
import { countParameters } from './parameters.ts';
import { inverseFrequencies } from './rope.ts';

function problems(json: Record<string, unknown>): unknown {
  try {
    parseModelConfig(json);
  } catch (error) {
    return (error as DeepSpeedError).data.problems;
  }
  return [];
}

describe('known models have their published sizes', () => {
  // Unique parameters; embeddings counted once where tied.
  it.each([
    ['GPT-2', { model_type: 'gpt2' }, 124_439_808],
    ['GPT-2 medium', { model_type: 'gpt2', n_layer: 24, n_embd: 1024, n_head: 16 }, 354_823_168],
    ['Llama 2 7B', { model_type: 'llama' }, 6_738_415_616],
    [
      'Llama 3.2 1B',
      {
        model_type: 'llama',
        vocab_size: 128256,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        tie_word_embeddings: true,
      },
      1_235_814_400,
    ],
  ])('%s', (_, json, count) => {
    expect(countParameters(modelParameters(parseModelConfig(json)))).toBe(count);
  });
});

it('takes the config.json files that are in the wild', () => {
  // As openai-community/gpt2 and a llama of transformers 4.40 have them.
  const gpt2 = {
    activation_function: 'gelu_new',
    architectures: ['GPT2LMHeadModel'],
    attn_pdrop: 0.1,
    bos_token_id: 50256,
    embd_pdrop: 0.1,
    eos_token_id: 50256,
    initializer_range: 0.02,
    layer_norm_epsilon: 1e-5,
    model_type: 'gpt2',
    n_ctx: 1024,
    n_embd: 768,
    n_head: 12,
    n_layer: 12,
    n_positions: 1024,
    resid_pdrop: 0.1,
    summary_activation: null,
    summary_first_dropout: 0.1,
    summary_proj_to_labels: true,
    summary_type: 'cls_index',
    summary_use_proj: true,
    task_specific_params: { 'text-generation': { do_sample: true, max_length: 50 } },
    vocab_size: 50257,
  };
  const llama = {
    _name_or_path: 'x',
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    attention_dropout: 0.0,
    bos_token_id: 1,
    eos_token_id: 2,
    hidden_act: 'silu',
    hidden_size: 576,
    initializer_range: 0.02,
    intermediate_size: 1536,
    is_llama_config: true,
    max_position_embeddings: 2048,
    model_type: 'llama',
    num_attention_heads: 9,
    num_hidden_layers: 30,
    num_key_value_heads: 3,
    pretraining_tp: 1,
    rms_norm_eps: 1e-5,
    rope_interleaved: false,
    rope_scaling: null,
    rope_theta: 10000.0,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    transformers_version: '4.42.3',
    use_cache: true,
    vocab_size: 49152,
  };
  expect(problems(gpt2)).toEqual([]);
  expect(problems(llama)).toEqual([]);
  expect(countParameters(modelParameters(parseModelConfig(llama)))).toBe(134_515_008);
});

describe('refuses', () => {
  it('another model type, and lists the supported', () => {
    expect(() => parseModelConfig({ model_type: 'bert' })).toThrow(
      /"bert"; supported: gpt2, llama/,
    );
    expect(() => parseModelConfig({})).toThrow(/missing; supported: gpt2, llama/);
  });

  it.each([
    [{ n_layer: 0 }, /n_layer: got 0, expected a whole number/],
    [{ n_embd: 10, n_head: 3 }, /n_embd 10 is not divisible by n_head 3/],
    [{ n_ctx: 5, n_positions: 6 }, /n_ctx 5 contradicts n_positions 6/],
    [{ activation_function: 'mish' }, /activation_function: got "mish", expected one of gelu_new/],
    [{ resid_pdrop: 1 }, /resid_pdrop: got 1/],
    [{ add_cross_attention: true }, /add_cross_attention: got true, expected false/],
    [{ quantization_config: { bits: 4 } }, /quantization_config/],
    [{ n_layers: 3 }, /n_layers: this version does not know the field/],
  ])('GPT-2 with %j', (fields, message) => {
    expect(problems({ model_type: 'gpt2', ...fields })).toEqual([expect.stringMatching(message)]);
  });

  it.each([
    [{ num_key_value_heads: 5 }, /not divisible by num_key_value_heads 5/],
    [{ head_dim: 5 }, /head_dim 5 is odd/],
    [{ rope_scaling: { type: 'yarn', factor: 2 } }, /type: got "yarn".*default, linear, llama3/],
    [{ rope_scaling: { rope_type: 'linear' } }, /factor: got nothing/],
    [{ rope_theta: 5, rope_parameters: { rope_theta: 6 } }, /rope_theta 5 contradicts the 6/],
    [{ sliding_window: 128 }, /sliding_window: got 128, expected null/],
  ])('Llama with %j', (fields, message) => {
    expect(String(problems({ model_type: 'llama', ...fields }))).toMatch(message);
  });

  it('all problems of a file at once', () => {
    expect(
      problems({ model_type: 'gpt2', n_layer: -1, n_head: 'x', vocab_size: null, hue: 1 }),
    ).toHaveLength(3);
  });

  it('a folder whose config.json is missing or broken', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'dsjs-config-'));
    try {
      await expect(loadModelConfig(dir)).rejects.toMatchObject({ code: 'MODEL_FOLDER_INVALID' });
      await writeFile(join(dir, 'config.json'), '{');
      await expect(loadModelConfig(dir)).rejects.toThrow(/config.json is not JSON/);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

it('reads rope_scaling of transformers 4 and rope_parameters of transformers 5 alike', () => {
  const llama3 = {
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  const old = { rope_theta: 500000, rope_scaling: { ...llama3, rope_type: 'llama3' } };
  const recent = { rope_parameters: { ...llama3, rope_type: 'llama3', rope_theta: 500000 } };
  const rope = (fields: object) => {
    const config = parseModelConfig({ model_type: 'llama', ...fields });
    return config.modelType === 'llama' ? config.rope : undefined;
  };
  expect(rope(old)).toEqual(rope(recent));
  // Short wavelengths are kept, long ones stretched by the whole factor.
  const plain = inverseFrequencies({ type: 'default', theta: 500000 }, 64);
  const scaled = inverseFrequencies(rope(old)!, 64);
  expect(scaled[0]).toBe(plain[0]);
  expect(scaled.at(-1)).toBeCloseTo(plain.at(-1)! / 8, 12);
});

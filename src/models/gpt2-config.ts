/** The GPT-2 family's config.json: GPT2Config of Hugging Face transformers. */
import { type Activation, activations } from './activation.ts';
import { ConfigFields, type Json } from './config-fields.ts';

export interface Gpt2Config {
  modelType: 'gpt2';
  vocabSize: number;
  maxPositions: number;
  width: number;
  innerWidth: number;
  layers: number;
  heads: number;
  activation: Activation;
  normEpsilon: number;
  embeddingDropout: number;
  attentionDropout: number;
  residualDropout: number;
  tieWordEmbeddings: boolean;
  /** Scores are divided by √(head width); and by the layer's number, from 1, when `scaleByLayer`. */
  scaleAttention: boolean;
  scaleByLayer: boolean;
  initializerRange: number;
  /** The file as it was read: what `saveModelConfig` writes back. */
  json: Json;
}

export function parseGpt2Config(json: Json, where: string): Gpt2Config {
  const fields = new ConfigFields(json, where);
  const width = fields.count('n_embd', 768);
  const config: Gpt2Config = {
    modelType: 'gpt2',
    vocabSize: fields.count('vocab_size', 50257),
    maxPositions: fields.count('n_positions', fields.count('n_ctx', 1024)),
    width,
    innerWidth: fields.count('n_inner', 4 * width),
    layers: fields.count('n_layer', 12),
    heads: fields.count('n_head', 12),
    activation: fields.oneOf('activation_function', activations, 'gelu_new'),
    normEpsilon: fields.number('layer_norm_epsilon', 1e-5),
    embeddingDropout: fields.ratio('embd_pdrop', 0.1),
    attentionDropout: fields.ratio('attn_pdrop', 0.1),
    residualDropout: fields.ratio('resid_pdrop', 0.1),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', true),
    scaleAttention: fields.boolean('scale_attn_weights', true),
    scaleByLayer: fields.boolean('scale_attn_by_inverse_layer_idx', false),
    initializerRange: fields.number('initializer_range', 0.02),
    json,
  };
  // Only the order of roundings in half precision, and heads other than language modelling.
  fields.neutral('reorder_and_upcast_attn', 'gradient_checkpointing');
  fields.neutral('summary_type', 'summary_use_proj', 'summary_activation');
  fields.neutral('summary_proj_to_labels', 'summary_first_dropout');
  fields.check(
    config.width % config.heads === 0,
    `n_embd ${config.width} is not divisible by n_head ${config.heads}`,
  );
  fields.check(
    !fields.has('n_ctx') || !fields.has('n_positions') || json.n_ctx === json.n_positions,
    `n_ctx ${json.n_ctx} contradicts n_positions ${json.n_positions}`,
  );
  fields.finish();
  return config;
}

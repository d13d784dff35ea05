/** Llama's config.json: LlamaConfig of Hugging Face transformers, as versions 4 and 5 write it. */
import { type Activation, activations } from './activation.ts';
import { ConfigFields, type Json } from './config-fields.ts';
import { parseRope, type Rope } from './rope.ts';

export interface LlamaConfig {
  modelType: 'llama';
  vocabSize: number;
  maxPositions: number;
  width: number;
  innerWidth: number;
  layers: number;
  heads: number;
  /** Heads of keys and values: grouped-query attention when fewer than `heads`. */
  kvHeads: number;
  headWidth: number;
  activation: Activation;
  normEpsilon: number;
  rope: Rope;
  attentionBias: boolean;
  mlpBias: boolean;
  attentionDropout: number;
  tieWordEmbeddings: boolean;
  initializerRange: number;
  /** The file as it was read: what `saveModelConfig` writes back. */
  json: Json;
}

export function parseLlamaConfig(json: Json, where: string): LlamaConfig {
  const fields = new ConfigFields(json, where);
  const width = fields.count('hidden_size', 4096);
  const heads = fields.count('num_attention_heads', 32);
  const kvHeads = fields.count('num_key_value_heads', heads);
  const headWidth = fields.count('head_dim', Math.floor(width / heads));
  const maxPositions = fields.count('max_position_embeddings', 2048);
  const config: LlamaConfig = {
    modelType: 'llama',
    vocabSize: fields.count('vocab_size', 32000),
    maxPositions,
    width,
    innerWidth: fields.count('intermediate_size', 11008),
    layers: fields.count('num_hidden_layers', 32),
    heads,
    kvHeads,
    headWidth,
    activation: fields.oneOf('hidden_act', activations, 'silu'),
    normEpsilon: fields.number('rms_norm_eps', 1e-6),
    rope: parseRope(fields, maxPositions),
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
    attentionDropout: fields.ratio('attention_dropout', 0),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    initializerRange: fields.number('initializer_range', 0.02),
    json,
  };
  fields.fixed('sliding_window', [null]);
  fields.fixed('partial_rotary_factor', [1]);
  fields.fixed('rope_interleaved', [false]);
  // Slices of the same products, for bitwise equality with an old training set-up; a converter's mark.
  fields.neutral('pretraining_tp', 'is_llama_config');
  fields.check(
    heads % kvHeads === 0,
    `num_attention_heads ${heads} is not divisible by num_key_value_heads ${kvHeads}`,
  );
  fields.check(
    fields.has('head_dim') || width % heads === 0,
    `hidden_size ${width} is not divisible by num_attention_heads ${heads}, and there is no head_dim`,
  );
  fields.check(headWidth % 2 === 0, `head_dim ${headWidth} is odd: rotary embedding turns pairs`);
  fields.finish();
  return config;
}

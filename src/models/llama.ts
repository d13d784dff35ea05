/** Llama (Touvron et al. 2023, and its successors) as an ONNX graph, with Hugging Face's parameter names. */
import { activate } from './activation.ts';
import { attention, type Flow, maskForGroups, rmsNorm, splitHeads } from './flow.ts';
import type { LlamaConfig } from './llama-config.ts';
import { normal, ones, type ParameterSpec, zeros } from './parameters.ts';
import { rotaryTables, rotate } from './rope.ts';

/** All parameters. Linear weights are [out, in], as the files store them. */
export function llamaParameters(config: LlamaConfig): ParameterSpec[] {
  const { width, innerWidth } = config;
  const usual = normal(config.initializerRange);
  const queryWidth = config.heads * config.headWidth;
  const kvWidth = config.kvHeads * config.headWidth;
  const norm = (name: string): ParameterSpec => ({ name, shape: [width], init: ones });
  const linear = (name: string, to: number, from: number, bias: boolean): ParameterSpec[] => [
    { name: `${name}.weight`, shape: [to, from], init: usual },
    ...(bias ? [{ name: `${name}.bias`, shape: [to], init: zeros }] : []),
  ];
  const layer = (name: string): ParameterSpec[] => [
    norm(`${name}.input_layernorm.weight`),
    ...linear(`${name}.self_attn.q_proj`, queryWidth, width, config.attentionBias),
    ...linear(`${name}.self_attn.k_proj`, kvWidth, width, config.attentionBias),
    ...linear(`${name}.self_attn.v_proj`, kvWidth, width, config.attentionBias),
    ...linear(`${name}.self_attn.o_proj`, width, queryWidth, config.attentionBias),
    norm(`${name}.post_attention_layernorm.weight`),
    ...linear(`${name}.mlp.gate_proj`, innerWidth, width, config.mlpBias),
    ...linear(`${name}.mlp.up_proj`, innerWidth, width, config.mlpBias),
    ...linear(`${name}.mlp.down_proj`, width, innerWidth, config.mlpBias),
  ];
  return [
    { name: 'model.embed_tokens.weight', shape: [config.vocabSize, width], init: usual },
    ...Array.from({ length: config.layers }, (_, i) => layer(`model.layers.${i}`)).flat(),
    norm('model.norm.weight'),
    ...(config.tieWordEmbeddings ? [] : linear('lm_head', config.vocabSize, width, false)),
  ];
}

/** Side values that all layers share: rotary tables and the mask in the layout of grouped queries. */
interface Shared {
  cos: string;
  sin: string;
  mask: string;
}

/** int64 [B, S] → `logits` float32 [B, S, vocabulary]. Parameters are values named as in the files. */
export function llamaLogits(flow: Flow, config: LlamaConfig, inputIds: string): string {
  const { b } = flow;
  const shared = sharedValues(flow, config);
  let hidden = b.segment('embed', () =>
    b.op('Gather', ['model.embed_tokens.weight', inputIds], { axis: 0 }),
  );
  for (let i = 0; i < config.layers; i++) {
    hidden = b.segment(`layer.${i}`, () => decoderLayer(flow, config, i, hidden, shared));
  }
  return b.segment('head', () => {
    const normed = rmsNorm(b, hidden, 'model.norm.weight', config.normEpsilon);
    const weight = config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight';
    return flow.linear(normed, weight, 'logits');
  });
}

function sharedValues(flow: Flow, config: LlamaConfig): Shared {
  const { b } = flow;
  const tables = rotaryTables(b, flow.positions, config.rope, config.headWidth);
  // [B, S, D/2 of a head] tables broadcast over heads; [S, ..] ones do so already.
  const overHeads = (table: string) =>
    flow.positionsPerSequence ? b.op('Unsqueeze', [table, b.constant('int64', [1], [1])]) : table;
  return {
    cos: overHeads(tables.cos),
    sin: overHeads(tables.sin),
    mask: maskForGroups(b, flow.mask, config.heads / config.kvHeads),
  };
}

function decoderLayer(
  flow: Flow,
  config: LlamaConfig,
  index: number,
  x: string,
  shared: Shared,
): string {
  const { b } = flow;
  const name = `model.layers.${index}`;
  const norm = (value: string, part: string) =>
    rmsNorm(b, value, `${name}.${part}.weight`, config.normEpsilon);
  const mlp = (value: string, part: string) =>
    linear(flow, value, `${name}.mlp.${part}`, config.mlpBias);

  const attended = selfAttention(flow, config, index, norm(x, 'input_layernorm'), shared);
  const middle = b.op('Add', [x, attended]);
  const normed = norm(middle, 'post_attention_layernorm');
  const gate = activate(b, config.activation, mlp(normed, 'gate_proj'));
  const gated = b.op('Mul', [gate, mlp(normed, 'up_proj')]);
  return b.op('Add', [middle, mlp(gated, 'down_proj')]);
}

function selfAttention(
  flow: Flow,
  config: LlamaConfig,
  layer: number,
  x: string,
  shared: Shared,
): string {
  const { b } = flow;
  const { heads, kvHeads, headWidth } = config;
  const name = `model.layers.${layer}.self_attn`;
  const project = (part: string, count: number) =>
    splitHeads(b, linear(flow, x, `${name}.${part}`, config.attentionBias), count, headWidth);
  const queries = rotate(b, project('q_proj', heads), shared.cos, shared.sin);
  const newKeys = rotate(b, project('k_proj', kvHeads), shared.cos, shared.sin);
  const { keys, values } = flow.withCache(layer, newKeys, project('v_proj', kvHeads));
  const context = attention(flow, queries, keys, values, shared.mask, {
    heads,
    kvHeads,
    headWidth,
    scale: 1 / Math.sqrt(headWidth),
    dropout: config.attentionDropout,
  });
  return linear(flow, context, `${name}.o_proj`, config.attentionBias);
}

function linear(flow: Flow, x: string, name: string, bias: boolean): string {
  const product = flow.linear(x, `${name}.weight`);
  return bias ? flow.b.op('Add', [product, `${name}.bias`]) : product;
}

/** GPT-2 (Radford et al. 2019) as an ONNX graph, with the parameter names of Hugging Face's files. */
import { activate } from './activation.ts';
import { type AttentionShape, attention, type Flow, layerNorm, splitHeads } from './flow.ts';
import type { Gpt2Config } from './gpt2-config.ts';
import { normal, ones, type ParameterSpec, zeros } from './parameters.ts';

/**
 * All parameters. Conv1D weights are [in, out], as the files store them; the projections that write to
 * the residual stream start smaller by √(2 · layers) (GPT-2 paper, section 2.3).
 */
export function gpt2Parameters(config: Gpt2Config): ParameterSpec[] {
  const { width, innerWidth } = config;
  const usual = normal(config.initializerRange);
  const residual = normal(config.initializerRange / Math.sqrt(2 * config.layers));
  const norm = (name: string): ParameterSpec[] => [
    { name: `${name}.weight`, shape: [width], init: ones },
    { name: `${name}.bias`, shape: [width], init: zeros },
  ];
  const conv = (name: string, from: number, to: number, init = usual): ParameterSpec[] => [
    { name: `${name}.weight`, shape: [from, to], init },
    { name: `${name}.bias`, shape: [to], init: zeros },
  ];
  const layer = (name: string): ParameterSpec[] => [
    ...norm(`${name}.ln_1`),
    ...conv(`${name}.attn.c_attn`, width, 3 * width),
    ...conv(`${name}.attn.c_proj`, width, width, residual),
    ...norm(`${name}.ln_2`),
    ...conv(`${name}.mlp.c_fc`, width, innerWidth),
    ...conv(`${name}.mlp.c_proj`, innerWidth, width, residual),
  ];
  return [
    { name: 'transformer.wte.weight', shape: [config.vocabSize, width], init: usual },
    { name: 'transformer.wpe.weight', shape: [config.maxPositions, width], init: usual },
    ...Array.from({ length: config.layers }, (_, i) => layer(`transformer.h.${i}`)).flat(),
    ...norm('transformer.ln_f'),
    ...(config.tieWordEmbeddings
      ? []
      : [{ name: 'lm_head.weight', shape: [config.vocabSize, width], init: usual }]),
  ];
}

/** int64 [B, S] → `logits` float32 [B, S, vocabulary]. Parameters are values named as in the files. */
export function gpt2Logits(flow: Flow, config: Gpt2Config, inputIds: string): string {
  const { b } = flow;
  let hidden = b.segment('embed', () => {
    const tokens = b.op('Gather', ['transformer.wte.weight', inputIds], { axis: 0 });
    const places = b.op('Gather', ['transformer.wpe.weight', flow.positions], { axis: 0 });
    return flow.dropout(b.op('Add', [tokens, places]), config.embeddingDropout);
  });
  for (let i = 0; i < config.layers; i++) {
    hidden = b.segment(`layer.${i}`, () => decoderLayer(flow, config, i, hidden));
  }
  return b.segment('head', () => {
    const normed = layerNorm(
      b,
      hidden,
      'transformer.ln_f.weight',
      'transformer.ln_f.bias',
      config.normEpsilon,
    );
    const weight = config.tieWordEmbeddings ? 'transformer.wte.weight' : 'lm_head.weight';
    return flow.linear(normed, weight, 'logits');
  });
}

function decoderLayer(flow: Flow, config: Gpt2Config, index: number, x: string): string {
  const { b } = flow;
  const name = `transformer.h.${index}`;
  const norm = (value: string, part: string) =>
    layerNorm(b, value, `${name}.${part}.weight`, `${name}.${part}.bias`, config.normEpsilon);
  const conv = (value: string, part: string) =>
    b.op('Add', [b.op('MatMul', [value, `${name}.${part}.weight`]), `${name}.${part}.bias`]);

  const attended = selfAttention(flow, config, index, conv(norm(x, 'ln_1'), 'attn.c_attn'));
  const projected = flow.dropout(conv(attended, 'attn.c_proj'), config.residualDropout);
  const middle = b.op('Add', [projected, x]);
  const inner = activate(b, config.activation, conv(norm(middle, 'ln_2'), 'mlp.c_fc'));
  const outer = flow.dropout(conv(inner, 'mlp.c_proj'), config.residualDropout);
  return b.op('Add', [outer, middle]);
}

/** `qkv` [B, S, 3 · width] holds queries, keys and values side by side. */
function selfAttention(flow: Flow, config: Gpt2Config, layer: number, qkv: string): string {
  const { b } = flow;
  const headWidth = config.width / config.heads;
  const shape: AttentionShape = {
    heads: config.heads,
    kvHeads: config.heads,
    headWidth,
    scale:
      (config.scaleAttention ? 1 / Math.sqrt(headWidth) : 1) /
      (config.scaleByLayer ? layer + 1 : 1),
    dropout: config.attentionDropout,
  };
  const parts = b.ops('Split', [qkv], 3, { axis: -1, num_outputs: 3 });
  const [queries, newKeys, newValues] = parts.map((part) =>
    splitHeads(b, part, config.heads, headWidth),
  ) as [string, string, string];
  const { keys, values } = flow.withCache(layer, newKeys, newValues);
  return attention(flow, queries, keys, values, flow.mask, shape);
}

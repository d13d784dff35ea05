/**
 * The graph that generates text: new tokens and a key/value cache in, logits and the longer cache out.
 * Only standard ONNX operators, so that it runs on every execution provider.
 */
import { GraphBuilder } from '../graph/builder.ts';
import type { Dim, Graph, Tensor } from '../graph/ir.ts';
import { type ModelConfig, modelParameters } from './config.ts';
import { causalMask, type Flow } from './flow.ts';
import type { ParameterSpec } from './parameters.ts';
import { addParameters, modelLogits } from './training-graph.ts';

/** transformers.js binds `batch_size` by this very name and makes other symbols of an empty cache 0. */
const batch = 'batch_size';

/**
 * Inputs: `input_ids`, `position_ids` int64 [batch_size, sequence_length]; `attention_mask` int64
 * [batch_size, total_sequence_length], 0 for padding; for every layer i `past_key_values.<i>.key` and
 * `.value` float32 [batch_size, kv heads, past_sequence_length, head width].
 * Outputs: `logits` float32 [batch_size, sequence_length, vocabulary]; `present.<i>.key` and `.value`.
 *
 * Parameters are initializers with their Hugging Face names and layouts: [out, in] weights enter Gemm
 * with transB, so none is transposed when the model is loaded.
 */
export function buildDecoderGraph(
  config: ModelConfig,
  parameters: ReadonlyMap<string, Tensor>,
): Graph {
  const b = new GraphBuilder(config.modelType);
  const tokens: [Dim, Dim] = [batch, 'sequence_length'];
  const inputIds = b.input('input_ids', 'int64', tokens);
  const attentionMask = b.input('attention_mask', 'int64', [batch, 'total_sequence_length']);
  const positions = b.input('position_ids', 'int64', tokens);
  const specs = modelParameters(config);
  const cache = declareCache(b, config);
  addParameters(b, specs, parameters);
  const flow: Flow = {
    b,
    positions,
    positionsPerSequence: true,
    mask: causalMask(b, inputIds, attentionMask),
    linear: portableLinear(b, specs, inputIds),
    matmulTransposed: (left, right, alpha) => {
      const scaled = b.op('Mul', [left, b.constant('float32', [], [alpha])]);
      return b.op('MatMul', [scaled, b.op('Transpose', [right], { perm: [0, 1, 3, 2] })]);
    },
    withCache: (layer, keys, values) => ({
      keys: cache.extend(layer, 'key', keys),
      values: cache.extend(layer, 'value', values),
    }),
    dropout: (x) => x,
  };
  b.output(modelLogits(flow, config, inputIds), 'float32', [...tokens, config.vocabSize]);
  cache.declareOutputs();
  return b.build();
}

function declareCache(b: GraphBuilder, config: ModelConfig) {
  const [heads, width] =
    config.modelType === 'gpt2'
      ? [config.heads, config.width / config.heads]
      : [config.kvHeads, config.headWidth];
  const shape = (length: string): Dim[] => [batch, heads, length, width];
  const pasts = Array.from({ length: config.layers }, (_, i) => `past_key_values.${i}`);
  for (const past of pasts) {
    b.input(`${past}.key`, 'float32', shape('past_sequence_length'));
    b.input(`${past}.value`, 'float32', shape('past_sequence_length'));
  }
  return {
    extend(layer: number, kind: 'key' | 'value', fresh: string): string {
      const options = { output: `present.${layer}.${kind}` };
      return b.op('Concat', [`${pasts[layer]}.${kind}`, fresh], { axis: 2 }, options);
    },
    declareOutputs(): void {
      for (let i = 0; i < config.layers; i++) {
        b.output(`present.${i}.key`, 'float32', shape('total_sequence_length'));
        b.output(`present.${i}.value`, 'float32', shape('total_sequence_length'));
      }
    },
  };
}

/** Gemm takes [out, in] weights as they are, but only matrices: rows are flattened around it. */
function portableLinear(
  b: GraphBuilder,
  specs: readonly ParameterSpec[],
  inputIds: string,
): Flow['linear'] {
  const shapes = new Map(specs.map((spec) => [spec.name, spec.shape]));
  const tokenShape = b.op('Shape', [inputIds]);
  return (x, weight, output) => {
    const [to, from] = shapes.get(weight) as [number, number];
    const rows = b.op('Reshape', [x, b.constant('int64', [2], [-1, from])]);
    const product = b.op('Gemm', [rows, weight], { transB: 1 });
    const shape = b.op('Concat', [tokenShape, b.constant('int64', [1], [to])], { axis: 0 });
    return b.op('Reshape', [product, shape], {}, output === undefined ? {} : { output });
  };
}

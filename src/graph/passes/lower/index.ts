/**
 * Every operator of ONNX Runtime's or our own domain in plain ONNX of opset 21, so that a graph runs on
 * any execution provider and fused kernels can be compared with something simpler.
 *
 * Two things cannot be said in plain operators. A graph cannot write into its input: where the fused
 * graph has an output `token.p` from an Accumulate into `gradient_buffer.p`, the lowered one has an
 * output `updated.p` with the buffer's new content, for the caller to keep. And there is no
 * counter-based random generator: each dropout stream's mask is an input (`mask.<stream>`).
 */
import { Emitter } from '../../emitter.ts';
import type { Graph, ValueInfo } from '../../ir.ts';
import { NodeContext } from '../../node-context.ts';
import { operatorKey } from '../../operator-key.ts';
import { randomValueOf } from '../../randomness.ts';
import { replacement, type TypedGraph, withoutDeadNodes, withoutUnreadInputs } from '../rewrite.ts';
import { Accumulations, isAccumulation } from './accumulate.ts';
import * as activation from './activation.ts';
import * as attention from './attention.ts';
import * as crossEntropy from './cross-entropy.ts';
import * as linear from './linear.ts';
import * as normalization from './normalization.ts';
import * as product from './product.ts';

type Lowering = (context: NodeContext) => readonly (string | undefined)[];

const lowerings: Record<string, Lowering> = {
  RMSNormalization: normalization.lowerOnnxRmsNormalization,
  SimplifiedLayerNormalization: normalization.lowerOnnxRmsNormalization,
  Swish: activation.lowerSilu(1),
  'com.microsoft.FusedMatMul': linear.lowerFusedMatMul,
  'com.microsoft.Gelu': activation.lowerGelu,
  'com.microsoft.FastGelu': activation.lowerFastGelu,
  'com.microsoft.QuickGelu': activation.lowerSilu(1.702),
  'deepspeed.Attention': attention.lowerAttention,
  'deepspeed.AttentionGrad': attention.lowerAttentionGrad,
  'deepspeed.Gelu': activation.lowerGelu,
  'deepspeed.GeluGrad': activation.lowerGeluGrad,
  'deepspeed.Silu': activation.lowerSilu(1),
  'deepspeed.SiluGrad': activation.lowerSiluGrad,
  'deepspeed.SiluMul': activation.lowerSiluMul,
  'deepspeed.SiluMulGrad': activation.lowerSiluMulGrad,
  'deepspeed.LayerNormalization': normalization.lowerLayerNormalization,
  'deepspeed.LayerNormalizationGrad': normalization.lowerLayerNormalizationGrad,
  'deepspeed.LinearCrossEntropy': crossEntropy.lowerLinearCrossEntropy,
  'deepspeed.MatMul': product.lowerMatMul,
  'deepspeed.RMSNormalization': normalization.lowerRmsNormalization,
  'deepspeed.RMSNormalizationGrad': normalization.lowerRmsNormalizationGrad,
  'deepspeed.SoftmaxGrad': activation.lowerSoftmaxGrad,
  'deepspeed.SoftmaxCrossEntropy': crossEntropy.lowerSoftmaxCrossEntropy,
  'deepspeed.SoftmaxCrossEntropyGrad': crossEntropy.lowerSoftmaxCrossEntropyGrad,
  'deepspeed.Dropout': linear.lowerDropout,
  'deepspeed.DropoutGrad': linear.lowerDropout,
  'deepspeed.RotaryEmbedding': linear.lowerRotaryEmbedding,
};

/** The graph without fused operators. */
export function lower({ graph, types }: TypedGraph): TypedGraph {
  const lowered = new Map(types);
  const emit = new Emitter(lowered, 'plain/');
  const masks = dropoutMasks(graph, lowered);
  for (const mask of masks)
    lowered.set(mask.name, { dtype: 'bool', shape: mask.shape as number[] });

  const accumulations = new Accumulations(emit);
  const nodes = graph.nodes.flatMap((node) => {
    const context = new NodeContext(node, emit);
    if (isAccumulation(node)) {
      return replacement(node, emit, () => accumulations.lower(context));
    }
    const rule = lowerings[operatorKey(node)];
    return rule === undefined ? [node] : replacement(node, emit, () => rule(context));
  });
  const kept = graph.outputs.filter(({ name }) => !name.startsWith('token.'));
  const updated = accumulations.results();
  const outputs = [...kept, ...updated.outputs];
  const initializers = new Map([...graph.initializers, ...emit.constants]);
  const inputs = [...graph.inputs, ...masks];
  const live = withoutDeadNodes({
    ...graph,
    nodes: [...nodes, ...updated.nodes],
    inputs,
    outputs,
    initializers,
  });
  return { graph: withoutUnreadInputs(live), types: lowered };
}

/** One bool input a dropout stream, in the shape of what it masks. */
function dropoutMasks(graph: Graph, types: TypedGraph['types']): ValueInfo[] {
  const masks = new Map<string, ValueInfo>();
  for (const node of graph.nodes) {
    const random = randomValueOf(node, types);
    if (random === undefined) continue;
    const name = linear.maskName(random.stream);
    masks.set(name, { name, dtype: 'bool', shape: random.shape });
  }
  return [...masks.values()];
}

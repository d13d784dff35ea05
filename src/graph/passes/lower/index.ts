/**
 * Every operator of ONNX Runtime's or our own domain in plain ONNX of opset 21, so that a graph runs on
 * any execution provider and fused kernels can be compared with something simpler.
 *
 * Two things cannot be said in plain operators. A graph cannot write into its input: where the fused
 * graph has an output `token.p` from an Accumulate into `gradient_buffer.p`, the lowered one has an
 * output `updated.p` with the buffer's new content, for the caller to keep. And there is no
 * counter-based random generator: each dropout stream's mask is an input (`mask.<stream>`).
 */
import { intAttribute } from '../../attributes.ts';
import { Emitter } from '../../emitter.ts';
import type { Graph, ValueInfo } from '../../ir.ts';
import { NodeContext } from '../../node-context.ts';
import { operatorKey } from '../../operator-key.ts';
import { scatterRows } from '../../gradient/scatter.ts';
import { replacement, type TypedGraph, withoutDeadNodes, withoutUnreadInputs } from '../rewrite.ts';
import * as activation from './activation.ts';
import * as crossEntropy from './cross-entropy.ts';
import * as linear from './linear.ts';
import * as normalization from './normalization.ts';

type Lowering = (context: NodeContext) => readonly (string | undefined)[];

const lowerings: Record<string, Lowering> = {
  RMSNormalization: normalization.lowerOnnxRmsNormalization,
  SimplifiedLayerNormalization: normalization.lowerOnnxRmsNormalization,
  Swish: activation.lowerSilu(1),
  'com.microsoft.FusedMatMul': linear.lowerFusedMatMul,
  'com.microsoft.Gelu': activation.lowerGelu,
  'com.microsoft.FastGelu': activation.lowerFastGelu,
  'com.microsoft.QuickGelu': activation.lowerSilu(1.702),
  'deepspeed.Gelu': activation.lowerGelu,
  'deepspeed.GeluGrad': activation.lowerGeluGrad,
  'deepspeed.Silu': activation.lowerSilu(1),
  'deepspeed.SiluGrad': activation.lowerSiluGrad,
  'deepspeed.SiluMul': activation.lowerSiluMul,
  'deepspeed.SiluMulGrad': activation.lowerSiluMulGrad,
  'deepspeed.LayerNormalization': normalization.lowerLayerNormalization,
  'deepspeed.LayerNormalizationGrad': normalization.lowerLayerNormalizationGrad,
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

  /** Buffer → its content after the accumulations so far; token → the buffer it speaks of. */
  const content = new Map<string, string>();
  const tokens = new Map<string, string>();
  const nodes = graph.nodes.flatMap((node) => {
    const key = operatorKey(node);
    const context = new NodeContext(node, emit);
    if (key === 'deepspeed.Accumulate' || key === 'deepspeed.EmbeddingGradAccumulate') {
      return replacement(node, emit, () => {
        tokens.set(node.outputs[0]!, accumulate(context, content));
        return [emit.constant('int32', [1], [0])];
      });
    }
    const rule = lowerings[key];
    return rule === undefined ? [node] : replacement(node, emit, () => rule(context));
  });

  const outputs = graph.outputs.map((output): ValueInfo => {
    const buffer = tokens.get(output.name);
    if (buffer === undefined) return output;
    const name = `updated.${buffer.replace(/^gradient_buffer\./, '')}`;
    const type = emit.type(content.get(buffer)!);
    lowered.set(name, type);
    nodes.push({
      name,
      opType: 'Identity',
      domain: '',
      inputs: [content.get(buffer)!],
      outputs: [name],
      attributes: {},
    });
    return { name, ...type };
  });
  const initializers = new Map([...graph.initializers, ...emit.constants]);
  const inputs = [...graph.inputs, ...masks];
  const live = withoutDeadNodes({ ...graph, nodes, inputs, outputs, initializers });
  return { graph: withoutUnreadInputs(live), types: lowered };
}

/** first ≠ 0 ? gradient : buffer + gradient. Returns the buffer's name; `content` has the new value. */
function accumulate(c: NodeContext, content: Map<string, string>): string {
  const { emit } = c;
  const rows = c.node.opType === 'EmbeddingGradAccumulate';
  const buffer = c.input(rows ? 2 : 1);
  const first = emit.cast(c.input(rows ? 3 : 2), 'bool');
  const gradient = rows
    ? scatterRows(emit, c.input(0), c.input(1), emit.shape(buffer))
    : c.input(0);
  const before = emit.keepWhere(emit.unary('Not', first), content.get(buffer) ?? buffer);
  content.set(buffer, emit.add(before, gradient));
  return buffer;
}

/** One bool input a dropout stream, in the shape of what it masks. */
function dropoutMasks(graph: Graph, types: TypedGraph['types']): ValueInfo[] {
  const masks = new Map<string, ValueInfo>();
  for (const node of graph.nodes) {
    const key = operatorKey(node);
    if (key !== 'deepspeed.Dropout' && key !== 'deepspeed.DropoutGrad') continue;
    const name = linear.maskName(intAttribute(node, 'stream', 0));
    masks.set(name, { name, dtype: 'bool', shape: types.get(node.inputs[0]!)!.shape });
  }
  return [...masks.values()];
}

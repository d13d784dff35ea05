/**
 * Every operator of ONNX Runtime's or our own domain in plain ONNX of opset 21, so that a graph runs on
 * any execution provider and fused kernels can be compared with something simpler.
 *
 * Two things cannot be said in plain operators. A graph cannot write into its input: where the fused
 * graph has an output `token.p` from an Accumulate into `gradient_buffer.p`, the wholly lowered one has an
 * output `updated.p` with the buffer's new content, for the caller to keep. And there is no
 * counter-based random generator: each dropout stream's mask is an input (`mask.<stream>`). Where only
 * arithmetic is lowered, our operators do both.
 */
import { floatAttribute, intAttribute } from '../../attributes.ts';
import { Emitter } from '../../emitter.ts';
import type { Graph, Node, ValueInfo } from '../../ir.ts';
import { NodeContext } from '../../node-context.ts';
import { operatorKey } from '../../operator-key.ts';
import { randomValueOf, rngIndex } from '../../randomness.ts';
import { numel } from '../../tensor.ts';
import { replacement, type TypedGraph, withoutDeadNodes, withoutUnreadInputs } from '../rewrite.ts';
import { InPlace, isAccumulation, lowerAccumulation, Returned } from './accumulate.ts';
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

/**
 * What stays an operator of ours where only arithmetic is lowered. They read and write the host's memory,
 * whatever computes the rest: rows of a table's gradient are added where the table's gradient is.
 */
const ofHostMemory = new Set(['deepspeed.Accumulate', 'deepspeed.EmbeddingGradAccumulate']);

export interface LowerOptions {
  /**
   * `all`: no operator of ours is left. `arithmetic`: what works in the host's memory stays, so that the graph
   * has the inputs and outputs that it had: gradients are added to their buffers in place, and
   * deepspeed.DropoutMask draws masks.
   */
  what: 'all' | 'arithmetic';
  /** Collects the operators that are lowered. */
  lowered?: Set<string>;
}

/** The graph without fused operators. */
export function lower(
  { graph, types }: TypedGraph,
  { what, lowered: found }: LowerOptions,
): TypedGraph {
  const lowered = new Map(types);
  const emit = new Emitter(lowered, 'plain/');
  const masks = dropoutMasks(graph, lowered);
  for (const { name, shape } of masks) lowered.set(name, { dtype: 'bool', shape });

  const returned = what === 'all' ? new Returned(emit) : undefined;
  const sink = returned ?? new InPlace(emit);
  const nodes = graph.nodes.flatMap((node) => {
    const key = operatorKey(node);
    const context = new NodeContext(node, emit);
    const rule = isAccumulation(node) ? lowerInto(sink) : lowerings[key];
    if (rule === undefined || (what === 'arithmetic' && ofHostMemory.has(key))) return [node];
    found?.add(key);
    return replacement(node, emit, () => rule(context));
  });
  const updated = returned?.results() ?? { nodes: [], outputs: [] };
  const kept = returned
    ? graph.outputs.filter(({ name }) => !name.startsWith('token.'))
    : graph.outputs;
  const drawn = returned ? [] : masks.flatMap((mask) => drawnMask(mask, emit));
  const live = withoutDeadNodes({
    ...graph,
    nodes: [...drawn, ...nodes, ...updated.nodes],
    inputs: [...graph.inputs, ...(returned ? masks.map(inputOf) : [])],
    outputs: [...kept, ...updated.outputs],
    initializers: new Map([...graph.initializers, ...emit.constants]),
  });
  return { graph: withoutUnreadInputs(live), types: lowered };
}

const lowerInto =
  (sink: Returned | InPlace): Lowering =>
  (context) =>
    lowerAccumulation(context, sink);

/** The kept elements of one dropout stream, in the shape of what it masks. */
interface Mask {
  name: string;
  shape: readonly number[];
  /** A node that draws it. */
  node: Node;
}

function dropoutMasks(graph: Graph, types: TypedGraph['types']): Mask[] {
  const masks = new Map<string, Mask>();
  for (const node of graph.nodes) {
    const random = randomValueOf(node, types);
    if (random === undefined) continue;
    const name = linear.maskName(random.stream);
    masks.set(name, { name, shape: random.shape, node });
  }
  return [...masks.values()];
}

function inputOf({ name, shape }: Mask): ValueInfo {
  return { name, dtype: 'bool', shape };
}

/** Nodes that draw a mask as the dropout itself would have. */
function drawnMask({ name, shape, node }: Mask, emit: Emitter): Node[] {
  const attributes = {
    ratio: floatAttribute(node, 'ratio', 0.5),
    stream: intAttribute(node, 'stream', 0),
    planes: numel(shape.slice(1, -2)),
    rows: shape.length > 2 ? shape.at(-2)! : 1,
    columns: shape.length > 1 ? shape.at(-1)! : 1,
  };
  const { planes, rows, columns } = attributes;
  const type = { dtype: 'bool', shape: [shape[0]!, planes, rows, columns] } as const;
  const inputs = [node.inputs[rngIndex(node)!]];
  const start = emit.nodes.length;
  const drawn = emit.one('DropoutMask', inputs, type, attributes, 'deepspeed');
  emit.one('Reshape', [drawn, emit.ints(shape)], { dtype: 'bool', shape });
  const [draw, reshape] = emit.nodes.splice(start) as [Node, Node];
  return [draw, { ...reshape, name, outputs: [name] }];
}

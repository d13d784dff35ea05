/** Fusing patterns of a model's graph into training kernels, before it is differentiated. */
import { Emitter } from '../../emitter.ts';
import type { Graph, Node } from '../../ir.ts';
import { mergeEqual, removeNoOps } from '../../simplify.ts';
import { producersOf, readsOf, valuesReachableFrom } from '../../topology.ts';
import { replacement, type TypedGraph, withoutDeadNodes } from '../rewrite.ts';
import {
  decomposedGelu,
  decomposedSilu,
  gatedSilu,
  operatorGelu,
  operatorSilu,
} from './activation.ts';
import { attention } from './attention/index.ts';
import { operatorAttention } from './attention/operators.ts';
import { logSoftmaxAndLoss, softmaxCrossEntropyLoss } from './cross-entropy.ts';
import { dropout } from './dropout.ts';
import { flatTranspose } from './flat-transpose.ts';
import {
  decomposedLayerNorm,
  decomposedRmsNorm,
  onnxLayerNorm,
  onnxRmsNorm,
} from './normalization.ts';
import { type Fusion, GraphView } from './pattern.ts';
import { rotatedHalves, rotateHalf } from './rotary.ts';
import { transposedProduct } from './transposed-product.ts';

/** In order of precedence at one node. */
const elements: readonly Fusion[] = [
  softmaxCrossEntropyLoss,
  logSoftmaxAndLoss,
  onnxLayerNorm,
  onnxRmsNorm,
  decomposedLayerNorm,
  decomposedRmsNorm,
  operatorGelu,
  decomposedGelu,
  operatorSilu,
  gatedSilu,
  decomposedSilu,
  rotatedHalves,
  rotateHalf,
  dropout,
  flatTranspose,
  transposedProduct,
];

/** What is made of those elements. */
const compositions: readonly Fusion[] = [operatorAttention, attention];

export interface Fused extends TypedGraph {
  /** One line for each kind of replacement that happened. */
  replaced: string[];
  /** Name of a node → why what it is the heart of stays as it is. */
  refused: ReadonlyMap<string, string>;
}

/** `trainable` are the graph inputs that need gradients. */
export function fuse({ graph, types }: TypedGraph, trainable: Iterable<string> = []): Fused {
  // Exporters leave casts to the same type and other no-ops between the parts of a pattern.
  const first = fuseOnce({ graph: removeNoOps(graph, { types }), types }, elements, trainable);
  // Queries and keys are turned by the same tables when they read the same value.
  const merged = { graph: mergeEqual(first.graph), types: first.types };
  const second = fuseOnce(merged, compositions, trainable);
  const refused = new Map([...first.refused, ...second.refused]);
  return { ...second, replaced: [...first.replaced, ...second.replaced], refused };
}

/**
 * Goes from the outputs backwards, so that the largest pattern that ends at a node is met before its
 * parts; a part that nothing else reads then is dead, and is not looked at.
 */
function fuseOnce(
  { graph, types }: TypedGraph,
  fusions: readonly Fusion[],
  trainable: Iterable<string>,
): Fused {
  const fusedTypes = new Map(types);
  const emit = new Emitter(fusedTypes, 'fused/');
  const trained = valuesReachableFrom(graph, trainable);
  const view = new GraphView(graph, producersOf(graph), fusedTypes, emit, trained);
  const counts = new Map<string, number>();
  const live = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => output !== '' && live.has(output))) continue;
    const result = apply(node, fusions, view, live);
    const kept = result?.nodes ?? [node];
    for (const input of kept.flatMap(readsOf)) live.add(input);
    nodes.push(...kept.toReversed());
    if (result !== undefined) counts.set(result.name, (counts.get(result.name) ?? 0) + 1);
  }
  const fused: Graph = {
    ...graph,
    inputs: [...graph.inputs, ...view.addedInputs.values()],
    initializers: new Map([...graph.initializers, ...emit.constants]),
    nodes: nodes.reverse(),
  };
  const lines = [...counts, ...view.kept].map(([name, count]) => `${name}: ${count}`);
  return {
    graph: withoutDeadNodes(fused),
    types: fusedTypes,
    replaced: lines.reverse(),
    refused: view.reasonOf,
  };
}

function apply(
  node: Node,
  fusions: readonly Fusion[],
  view: GraphView,
  live: ReadonlySet<string>,
): { name: string; nodes: Node[] } | undefined {
  for (const fusion of fusions) {
    const match = fusion.match(node, view, live);
    if (match === undefined) continue;
    const { name, make } = 'make' in match ? match : { name: fusion.name, make: match };
    return { name, nodes: replacement(node, view.emit, make) };
  }
  return undefined;
}

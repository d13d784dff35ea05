/** Fusing patterns of a model's graph into training kernels, before it is differentiated. */
import { Emitter } from '../../emitter.ts';
import type { Graph, Node } from '../../ir.ts';
import { producersOf, readsOf } from '../../topology.ts';
import { replacement, type TypedGraph, withoutDeadNodes } from '../rewrite.ts';
import {
  decomposedGelu,
  decomposedSilu,
  gatedSilu,
  operatorGelu,
  operatorSilu,
} from './activation.ts';
import { logSoftmaxAndLoss, softmaxCrossEntropyLoss } from './cross-entropy.ts';
import { dropout } from './dropout.ts';
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
const fusions: readonly Fusion[] = [
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
  transposedProduct,
];

export interface Fused extends TypedGraph {
  /** One line for each kind of replacement that happened. */
  replaced: string[];
}

/**
 * Goes from the outputs backwards, so that the largest pattern that ends at a node is met before its
 * parts; a part that nothing else reads then is dead, and is not looked at.
 */
export function fuse({ graph, types }: TypedGraph): Fused {
  const fusedTypes = new Map(types);
  const emit = new Emitter(fusedTypes, 'fused/');
  const view = new GraphView(graph, producersOf(graph), fusedTypes, emit);
  const counts = new Map<string, number>();
  const live = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => output !== '' && live.has(output))) continue;
    const result = apply(node, view, live);
    const kept = result?.nodes ?? [node];
    for (const input of kept.flatMap(readsOf)) live.add(input);
    nodes.push(...kept.toReversed());
    if (result === undefined) continue;
    const line = result.name;
    counts.set(line, (counts.get(line) ?? 0) + 1);
  }
  const fused: Graph = {
    ...graph,
    inputs: [...graph.inputs, ...view.addedInputs.values()],
    initializers: new Map([...graph.initializers, ...emit.constants]),
    nodes: nodes.reverse(),
  };
  const replaced = [...counts].map(([name, count]) => `${name}: ${count}`).reverse();
  return { graph: withoutDeadNodes(fused), types: fusedTypes, replaced };
}

function apply(
  node: Node,
  view: GraphView,
  live: ReadonlySet<string>,
): { name: string; nodes: Node[] } | undefined {
  for (const fusion of fusions) {
    const make = fusion.match(node, view, live);
    if (make !== undefined) return { name: fusion.name, nodes: replacement(node, view.emit, make) };
  }
  return undefined;
}

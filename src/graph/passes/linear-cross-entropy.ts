/**
 * The last product of a language model with the cross-entropy over it, by chunks of rows, so that large
 * logits never exist as a whole. Backward computes the product a second time: one product more than the
 * three that logits in memory take, which is why small logits stay. For training graphs only: evaluation
 * keeps its logits.
 */
import { floatAttribute, intAttribute } from '../attributes.ts';
import { Emitter } from '../emitter.ts';
import type { Graph, Node } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import { elementSize, numel } from '../tensor.ts';
import { consumersOf, producersOf } from '../topology.ts';
import { replacement, type TypedGraph, withoutDeadNodes } from './rewrite.ts';

export interface ChunkedLossOptions {
  /** Logits of more bytes than this are not kept. */
  maxLogitsBytes: number;
  /** Graph inputs whose gradients must be values: a weight among them stays in a product. */
  activations: ReadonlySet<string>;
}

export function chunkLosses({ graph, types }: TypedGraph, options: ChunkedLossOptions): TypedGraph {
  const made = new Map(types);
  const emit = new Emitter(made, 'chunked/');
  const product = productFinder(graph);
  const nodes = graph.nodes.flatMap((node) => {
    const found = product(node);
    if (found === undefined || options.activations.has(found.weight)) return [node];
    if (types.get(found.weight)!.shape.length !== 2) return [node];
    const logits = types.get(found.logits)!;
    if (numel(logits.shape) * elementSize(logits.dtype) <= options.maxLogitsBytes) return [node];
    return replacement(node, emit, () => {
      const labels = node.inputs[1]!;
      const rows = { dtype: logits.dtype, shape: emit.shape(labels) };
      const x = emit.reshape(found.x, [...rows.shape, emit.shape(found.x).at(-1)!]);
      const attributes = {
        ignore_index: intAttribute(node, 'ignore_index', -100),
        transposed: found.transposed ? 1 : 0,
      };
      const inputs = [x, found.weight, labels];
      return emit.node('LinearCrossEntropy', inputs, [rows, rows], attributes, 'deepspeed');
    });
  });
  const initializers = new Map([...graph.initializers, ...emit.constants]);
  return { graph: withoutDeadNodes({ ...graph, nodes, initializers }), types: made };
}

interface FoundProduct {
  x: string;
  /** A graph input. */
  weight: string;
  /** The weight is [D, V]. */
  transposed: boolean;
  logits: string;
}

/** For a SoftmaxCrossEntropy: the product that makes its logits, if they have no other reader. */
function productFinder(graph: Graph): (node: Node) => FoundProduct | undefined {
  const producers = producersOf(graph);
  const readers = consumersOf(graph);
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const inputs = new Set(graph.inputs.map(({ name }) => name));
  return (node) => {
    if (operatorKey(node) !== 'deepspeed.SoftmaxCrossEntropy') return undefined;
    let logits = node.inputs[0]!;
    for (;;) {
      if (outputs.has(logits) || readers.get(logits)!.length > 1) return undefined;
      const maker = producers.get(logits);
      if (maker === undefined) return undefined;
      if (operatorKey(maker) !== 'Reshape') return asProduct(maker, inputs);
      logits = maker.inputs[0]!;
    }
  };
}

function asProduct(node: Node, inputs: ReadonlySet<string>): FoundProduct | undefined {
  const key = operatorKey(node);
  if (key !== 'MatMul' && key !== 'com.microsoft.FusedMatMul') return undefined;
  const [x, weight] = node.inputs as [string, string];
  const plain =
    intAttribute(node, 'transA', 0) === 0 &&
    (key === 'MatMul' || floatAttribute(node, 'alpha', 1) === 1) &&
    intAttribute(node, 'transBatchA', 0) === 0 &&
    intAttribute(node, 'transBatchB', 0) === 0;
  if (!plain || !inputs.has(weight)) return undefined;
  const transposed = intAttribute(node, 'transB', 0) === 0;
  return { x, weight, transposed, logits: node.outputs[0]! };
}

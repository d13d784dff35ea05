/** The first step of a plan: parameters as inputs, every shape a number, constants folded. */
import { isFloat } from '../emitter.ts';
import type { Graph, Node, Tensor } from '../ir.ts';
import { inferTypes } from '../shapes/infer.ts';
import { readsOf, sortNodes, writesOf } from '../topology.ts';
import { type TypedGraph, withoutDeadNodes } from './rewrite.ts';

export interface ConcreteGraph extends TypedGraph {
  /** Initializers that became inputs: trainable and frozen ones. */
  parameters: Set<string>;
}

/** A frozen table smaller than this is a constant of the graph rather than a parameter. */
const smallParameter = 4096;

/** Operators whose large frozen operand is a weight and not a table that follows from positions. */
const weightOperators = new Set(['MatMul', 'Gemm', 'FusedMatMul', 'Gather']);

/**
 * `isParameter` is asked for each float initializer. Others count as parameters, too, when they are
 * large operands of a product or a lookup; the rest are constants.
 */
export function makeConcrete(
  graph: Graph,
  inputShapes: Readonly<Record<string, readonly number[]>>,
  isParameter: (name: string) => boolean,
): ConcreteGraph {
  const sorted = { ...graph, nodes: sortNodes(graph) };
  const parameters = new Set<string>();
  for (const [name, tensor] of graph.initializers) {
    if (!isFloat(tensor.dtype)) continue;
    if (isParameter(name) || isWeight(graph, name, tensor)) parameters.add(name);
  }
  const open = parametersAsInputs(sorted, parameters);
  const types = inferTypes(open, { inputs: inputShapes });
  return { ...foldConstants({ graph: open, types }), parameters };
}

function isWeight(graph: Graph, name: string, { dims }: Tensor): boolean {
  const count = dims.reduce((a, b) => a * b, 1);
  if (count < smallParameter) return false;
  return graph.nodes.some((node) => weightOperators.has(node.opType) && node.inputs.includes(name));
}

function parametersAsInputs(graph: Graph, parameters: ReadonlySet<string>): Graph {
  // Old models list initializers among the inputs, too.
  const own = graph.inputs.filter((input) => !graph.initializers.has(input.name));
  const added = [...parameters].map((name) => {
    const { dtype, dims } = graph.initializers.get(name)!;
    return { name, dtype, shape: dims };
  });
  const initializers = new Map([...graph.initializers].filter(([name]) => !parameters.has(name)));
  return { ...graph, inputs: [...own, ...added], initializers };
}

/** Nodes whose results are known become initializers. */
function foldConstants({ graph, types }: TypedGraph): TypedGraph {
  const initializers = new Map(graph.initializers);
  const isKnown = (node: Node) =>
    writesOf(node).length > 0 &&
    writesOf(node).every((output) => types.get(output)?.constant !== undefined);
  const nodes = graph.nodes.filter((node) => !isKnown(node));
  const read = new Set([...nodes.flatMap(readsOf), ...graph.outputs.map((output) => output.name)]);
  for (const node of graph.nodes.filter(isKnown)) {
    for (const output of writesOf(node)) {
      if (read.has(output)) initializers.set(output, types.get(output)!.constant!);
    }
  }
  return { graph: withoutDeadNodes({ ...graph, nodes, initializers }), types };
}

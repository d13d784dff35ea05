/** Replacing nodes by others that make the same values. */
import type { Emitter } from '../emitter.ts';
import type { Graph, Node, ValueType } from '../ir.ts';
import { readsOf } from '../topology.ts';

/** A graph whose shapes are concrete, with the type of every value. */
export interface TypedGraph {
  graph: Graph;
  types: Map<string, ValueType>;
}

/**
 * Runs `make`, which emits nodes and returns a value for each output of `node` (undefined: that output
 * is not made), and renames those values to the node's own outputs. Returns the new nodes.
 */
export function replacement(
  node: Node,
  emit: Emitter,
  make: () => readonly (string | undefined)[],
): Node[] {
  const start = emit.nodes.length;
  emit.metadata = node.metadata;
  const values = make();
  const made = new Set(emit.nodes.slice(start).flatMap((emitted) => emitted.outputs));
  const names = new Map<string, string>();
  node.outputs.forEach((output, i) => {
    const value = values[i];
    if (output === '' || value === undefined) return;
    // A value that existed before, or that serves two outputs, is passed on under the new name.
    const fresh = made.has(value) && !names.has(value);
    const source = fresh ? value : emit.one('Identity', [value], emit.type(value));
    names.set(source, output);
  });
  emit.metadata = undefined;
  const rename = (name: string) => names.get(name) ?? name;
  return emit.nodes.splice(start).map((emitted) => ({
    ...emitted,
    inputs: emitted.inputs.map(rename),
    outputs: emitted.outputs.map(rename),
  }));
}

/** Drops nodes and initializers that no output depends on. Inputs stay: they are the contract. */
export function withoutDeadNodes(graph: Graph): Graph {
  const live = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => output !== '' && live.has(output))) continue;
    for (const input of readsOf(node)) live.add(input);
    nodes.push(node);
  }
  const initializers = new Map([...graph.initializers].filter(([name]) => live.has(name)));
  return { ...graph, nodes: nodes.reverse(), initializers };
}

/** Drops inputs that no node reads and no output passes on. */
export function withoutUnreadInputs(graph: Graph): Graph {
  const read = new Set([...graph.nodes.flatMap(readsOf), ...graph.outputs.map(({ name }) => name)]);
  return { ...graph, inputs: graph.inputs.filter(({ name }) => read.has(name)) };
}

/** The rules that every pass relies on, checked once where a graph enters. */
import { DeepSpeedError } from '../errors.ts';
import type { Graph, Node } from './ir.ts';
import { readsOf, sortNodes } from './topology.ts';

/**
 * Sorts the graph's nodes and checks single assignment: every value is made once, every value read and
 * every output exists. `outer` holds the values that a subgraph may read from around it.
 * Throws GRAPH_INVALID naming node and value.
 */
export function checkGraph(graph: Graph, outer: ReadonlySet<string> = new Set()): void {
  const defined = new Map<string, string>();
  const define = (name: string, maker: string) => {
    const other = defined.get(name);
    if (other !== undefined)
      throw invalid(`value '${name}' is made twice: by ${other} and ${maker}`);
    defined.set(name, maker);
  };
  for (const input of graph.inputs) define(input.name, 'a graph input');
  for (const name of graph.initializers.keys()) define(name, 'an initializer');
  for (const node of graph.nodes) {
    for (const output of node.outputs) if (output !== '') define(output, describe(node));
  }

  const exists = (name: string) => defined.has(name) || outer.has(name);
  for (const node of graph.nodes) {
    for (const attribute of Object.values(node.attributes)) {
      if (attribute.type === 'graph') {
        checkGraph(attribute.value, new Set([...outer, ...defined.keys()]));
      }
    }
    for (const input of readsOf(node)) {
      if (!exists(input)) throw invalid(`${describe(node)} reads '${input}', which nothing makes`);
    }
  }
  const outputs = new Set<string>();
  for (const { name } of graph.outputs) {
    if (!exists(name)) throw invalid(`graph output '${name}' is made by nothing`);
    if (outputs.has(name)) throw invalid(`graph output '${name}' is listed twice`);
    outputs.add(name);
  }
  graph.nodes = sortNodes(graph);
}

function describe(node: Node): string {
  return `node ${node.name === '' ? '(unnamed)' : node.name} (${node.opType})`;
}

function invalid(message: string): DeepSpeedError {
  return new DeepSpeedError('GRAPH_INVALID', message);
}

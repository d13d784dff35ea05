/** Who makes a value, who reads it, and in which order nodes can run. */
import { DeepSpeedError } from '../errors.ts';
import type { Graph, Node } from './ir.ts';

/**
 * Every value a node reads: its present inputs, and what the graphs in its attributes (branches, loop
 * bodies) read from the graph around them.
 */
export function readsOf(node: Node): string[] {
  const reads = node.inputs.filter((input) => input !== '');
  for (const attribute of Object.values(node.attributes)) {
    if (attribute.type === 'graph') reads.push(...freeValues(attribute.value));
  }
  return reads;
}

/** The outputs that are present. */
export function writesOf(node: Node): string[] {
  return node.outputs.filter((output) => output !== '');
}

/** Values that a subgraph reads and does not define. */
export function freeValues(graph: Graph): string[] {
  const own = new Set([
    ...graph.inputs.map((input) => input.name),
    ...graph.initializers.keys(),
    ...graph.nodes.flatMap(writesOf),
  ]);
  const read = [...graph.nodes.flatMap(readsOf), ...graph.outputs.map((output) => output.name)];
  return [...new Set(read)].filter((name) => !own.has(name));
}

/** Value → the node that makes it. Graph inputs and initializers are absent. */
export function producersOf(graph: Graph): Map<string, Node> {
  const producers = new Map<string, Node>();
  for (const node of graph.nodes) for (const output of writesOf(node)) producers.set(output, node);
  return producers;
}

/** Value → the nodes that read it, in graph order, each once. Unread values are absent. */
export function consumersOf(graph: Graph): Map<string, Node[]> {
  const consumers = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const input of new Set(readsOf(node))) {
      const list = consumers.get(input);
      if (list) list.push(node);
      else consumers.set(input, [node]);
    }
  }
  return consumers;
}

/** The sources and all values that depend on one of them. The nodes must be sorted. */
export function valuesReachableFrom(graph: Graph, sources: Iterable<string>): Set<string> {
  const reached = new Set(sources);
  for (const node of graph.nodes) {
    if (readsOf(node).some((input) => reached.has(input))) {
      for (const output of writesOf(node)) reached.add(output);
    }
  }
  return reached;
}

/** The targets and all values that they depend on. The nodes must be sorted. */
export function valuesLeadingTo(graph: Graph, targets: Iterable<string>): Set<string> {
  const needed = new Set(targets);
  for (const node of graph.nodes.toReversed()) {
    if (writesOf(node).some((output) => needed.has(output))) {
      for (const input of readsOf(node)) needed.add(input);
    }
  }
  return needed;
}

/**
 * The nodes in an order in which each follows the producers of its inputs; an order that is already
 * good is kept as it is. Throws GRAPH_INVALID with the cycle when there is none.
 */
export function sortNodes(graph: Graph): Node[] {
  const producers = producersOf(graph);
  const sorted = new Set<Node>();
  const open = new Set<Node>();
  // Depth first with an explicit stack: graphs are deeper than JavaScript's.
  const stack: { node: Node; waitsFor: Iterator<Node> }[] = [];
  const enter = (node: Node) => {
    open.add(node);
    const inputs = readsOf(node).map((input) => producers.get(input));
    stack.push({ node, waitsFor: inputs.filter((input) => input !== undefined).values() });
  };

  for (const start of graph.nodes) {
    if (sorted.has(start)) continue;
    enter(start);
    while (stack.length > 0) {
      const top = stack.at(-1)!;
      const next = top.waitsFor.next();
      if (next.done) {
        stack.pop();
        open.delete(top.node);
        sorted.add(top.node);
      } else if (open.has(next.value)) {
        throw cycle([...open], next.value);
      } else if (!sorted.has(next.value)) {
        enter(next.value);
      }
    }
  }
  return [...sorted];
}

/** `open` holds the walk from reader to producer; the cycle is its tail from `again` on. */
function cycle(open: Node[], again: Node): DeepSpeedError {
  const nodes = open.slice(open.indexOf(again)).reverse();
  const path = [...nodes, nodes[0]!].map((node) => `${node.name} (${node.opType})`);
  return new DeepSpeedError('GRAPH_INVALID', `nodes form a cycle: ${path.join(' -> ')}`, {
    data: { nodes: nodes.map((node) => node.name) },
  });
}

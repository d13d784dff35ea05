/** Removing what changes nothing: unread nodes, no-ops, and values computed twice. */
import type { Graph, Node, Tensor, ValueType } from './ir.ts';
import { numel, toNumbers } from './tensor.ts';
import { readsOf, valuesLeadingTo, writesOf } from './topology.ts';

export interface SimplifyOptions {
  /** What inferTypes found; without it only what is a no-op for every shape is removed. */
  types?: ReadonlyMap<string, ValueType>;
  /** Dropout is a no-op at inference. Default false: training needs it. */
  inference?: boolean;
  /** Initializers that stay apart although their bytes are equal: training changes them. */
  variables?: ReadonlySet<string>;
}

/**
 * A graph with the same inputs, outputs and output values, and fewer nodes. Initializers that nothing
 * reads are dropped, except variables.
 */
export function simplify(graph: Graph, options: SimplifyOptions = {}): Graph {
  return removeDead(mergeEqual(removeNoOps(graph, options), options), options.variables);
}

/** Drops nodes and initializers that no graph output depends on. */
export function removeDead(graph: Graph, variables: ReadonlySet<string> = new Set()): Graph {
  const needed = valuesLeadingTo(
    graph,
    graph.outputs.map((output) => output.name),
  );
  const nodes = graph.nodes.filter((node) => writesOf(node).some((output) => needed.has(output)));
  const initializers = [...graph.initializers].filter(
    ([name]) => needed.has(name) || variables.has(name),
  );
  const valueInfo = [...graph.valueInfo].filter(([name]) => needed.has(name));
  return { ...graph, nodes, initializers: new Map(initializers), valueInfo: new Map(valueInfo) };
}

/** Rewires the readers of Identity, of a Reshape to the same shape, and their like, to the source. */
export function removeNoOps(graph: Graph, options: SimplifyOptions = {}): Graph {
  const names = new Renames(graph);
  const nodes: Node[] = [];
  for (const original of graph.nodes) {
    const node = names.applyTo(original);
    const passes = isNoOp(node, options) && onlyFirstOutputRead(graph, node);
    if (!passes || !names.replace(node.outputs[0]!, node.inputs[0]!)) nodes.push(node);
  }
  return { ...graph, nodes };
}

/** Keeps the first of several nodes with the same operator, attributes and inputs; constants likewise. */
export function mergeEqual(graph: Graph, options: SimplifyOptions = {}): Graph {
  const names = new Renames(graph);
  const seen = new Map<string, readonly string[]>();
  const initializers = new Map<string, Tensor>();
  for (const [name, tensor] of graph.initializers) {
    const key = options.variables?.has(name) ? undefined : constantKey(tensor);
    const first = key === undefined ? undefined : seen.get(key);
    if (first !== undefined && names.replace(name, first[0]!)) continue;
    if (key !== undefined) seen.set(key, [name]);
    initializers.set(name, tensor);
  }
  const nodes: Node[] = [];
  for (const original of graph.nodes) {
    const node = names.applyTo(original);
    const key = nodeKey(node);
    const first = key === undefined ? undefined : seen.get(key);
    if (first === undefined || !names.replaceAll(node.outputs, first)) {
      nodes.push(node);
      if (key !== undefined) seen.set(key, node.outputs);
    }
  }
  return { ...graph, nodes, initializers };
}

/** Old name → the value that readers take instead. Graph outputs keep their names. */
class Renames {
  private readonly renamed = new Map<string, string>();
  private readonly pinned: ReadonlySet<string>;

  constructor(graph: Graph) {
    // Subgraphs name the values around them in places that are not rewritten here.
    const captured = graph.nodes.flatMap((node) =>
      readsOf(node).filter((read) => !node.inputs.includes(read)),
    );
    this.pinned = new Set([...graph.outputs.map((output) => output.name), ...captured]);
  }

  /** Returns false, and changes nothing, when `from` must keep its name. */
  replace(from: string, to: string): boolean {
    if (this.pinned.has(from)) return false;
    this.renamed.set(from, to);
    return true;
  }

  replaceAll(from: readonly string[], to: readonly string[]): boolean {
    if (from.some((name) => this.pinned.has(name))) return false;
    for (const [i, name] of from.entries()) if (name !== '') this.renamed.set(name, to[i]!);
    return true;
  }

  applyTo(node: Node): Node {
    const inputs = node.inputs.map((input) => this.renamed.get(input) ?? input);
    return inputs.every((input, i) => input === node.inputs[i]) ? node : { ...node, inputs };
  }
}

const sameElements = new Set([
  'Reshape',
  'Expand',
  'Squeeze',
  'Unsqueeze',
  'Flatten',
  'Slice',
  'Tile',
]);

function isNoOp(node: Node, { types, inference = false }: SimplifyOptions): boolean {
  if (node.domain === 'deepspeed') return inference && node.opType === 'Dropout';
  if (node.domain !== '') return false;
  if (node.opType === 'Identity') return true;
  if (node.opType === 'Dropout') return inference;
  if (node.opType === 'Transpose') {
    const perm = node.attributes.perm;
    return perm?.type === 'ints' && perm.value.every((axis, i) => axis === i);
  }
  if (node.opType === 'Concat' || node.opType === 'Sum') return node.inputs.length === 1;
  const [from, to] = [types?.get(node.inputs[0]!), types?.get(node.outputs[0]!)];
  if (from === undefined || to === undefined) return false;
  if (node.opType === 'Cast' || node.opType === 'CastLike') return from.dtype === to.dtype;
  if (!sameElements.has(node.opType) || from.shape.join() !== to.shape.join()) return false;
  return node.opType !== 'Slice' || !reverses(node, types!);
}

/** A Slice that keeps the shape takes everything, perhaps backwards. */
function reverses(node: Node, types: ReadonlyMap<string, ValueType>): boolean {
  const steps = node.inputs[4];
  if (steps === undefined || steps === '') return false;
  const constant = types.get(steps)?.constant;
  return constant === undefined || toNumbers(constant).some((step) => step < 0);
}

function onlyFirstOutputRead(graph: Graph, node: Node): boolean {
  const others = new Set(node.outputs.slice(1).filter((output) => output !== ''));
  if (others.size === 0) return true;
  const reads = [...graph.nodes.flatMap(readsOf), ...graph.outputs.map((output) => output.name)];
  return !reads.some((read) => others.has(read));
}

/** Larger constants are hardly ever equal, and comparing them takes long. */
const maxKeyElements = 4096;

/** Operators that draw new numbers or write into a buffer: two of them are never one. */
const impure = /^(Random|Bernoulli|Multinomial|Dropout|.*Accumulate)/;

function nodeKey(node: Node): string | undefined {
  if (impure.test(node.opType)) return undefined;
  const attributes: string[] = [];
  for (const [name, attribute] of Object.entries(node.attributes)) {
    if (attribute.type === 'graph') return undefined;
    if (attribute.type === 'tensor' && numel(attribute.value.dims) > maxKeyElements)
      return undefined;
    const value =
      attribute.type === 'tensor' ? contentKey(attribute.value) : JSON.stringify(attribute.value);
    attributes.push(`${name}:${attribute.type}:${value}`);
  }
  const present = node.outputs.map((output) => (output === '' ? 0 : 1));
  return JSON.stringify([node.domain, node.opType, node.inputs, attributes.sort(), present]);
}

/**
 * Equal keys mean equal constants. Float vectors have none: two biases that start as zeros are equal
 * today and different parameters tomorrow.
 */
function constantKey(tensor: Tensor): string | undefined {
  const elements = numel(tensor.dims);
  const parameter = tensor.dtype.includes('float') && elements !== 1;
  return parameter || elements > maxKeyElements ? undefined : contentKey(tensor);
}

function contentKey(tensor: Tensor): string {
  return `${tensor.dtype}[${tensor.dims}]${Buffer.from(tensor.data).toString('base64')}`;
}

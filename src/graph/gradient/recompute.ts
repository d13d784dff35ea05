/**
 * What backward does about the forward values it reads: takes them saved, or computes them again. Views
 * cost nothing and are always computed again from what they look at; cheap arithmetic is, where
 * everything it needs is at hand anyway.
 */
import { intAttribute } from '../attributes.ts';
import type { Graph, Node, ValueType } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import { elementSize, numel } from '../tensor.ts';
import { producersOf, readsOf } from '../topology.ts';

/** May this node be computed a second time to spare its result's memory between forward and backward? */
export type RecomputePolicy = (node: Node, shape: (value: string) => readonly number[]) => boolean;

/** Operators that ONNX Runtime answers without touching an element. */
const views = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity']);

/** One pass over memory and next to no arithmetic: cheaper than keeping the result. */
const cheap = new Set([
  'Abs',
  'Add',
  'And',
  'Cast',
  'Clip',
  'Equal',
  'Expand',
  'Greater',
  'GreaterOrEqual',
  'Less',
  'LessOrEqual',
  'Max',
  'Min',
  'Mul',
  'Neg',
  'Not',
  'Or',
  'Relu',
  'Sign',
  'Sub',
  'Where',
  'deepspeed.Dropout',
]);

/**
 * Some arithmetic for each element, which disappears in the product that reads the result (passes/products)
 * or takes one pass over a row in cache: far less than a product, for one to four widths a token.
 */
const activations = new Set([
  'deepspeed.Gelu',
  'deepspeed.LayerNormalization',
  'deepspeed.RMSNormalization',
  'deepspeed.Silu',
  'deepspeed.SiluMul',
]);

const products = new Set(['MatMul', 'com.microsoft.FusedMatMul', 'Gemm']);

/**
 * Rows times a weight that leaves at most a third of their width: keys and values that several queries
 * share, the low ranks of adapters. In a Llama with three queries a key, computing both again adds 2% to the
 * arithmetic of a layer and spares a fifteenth of what it keeps.
 */
function narrows(node: Node, shape: (value: string) => readonly number[]): boolean {
  const [rows, weight] = node.inputs as [string, string];
  if (!products.has(operatorKey(node)) || shape(weight).length !== 2) return false;
  if (intAttribute(node, 'transA', 0) !== 0) return false;
  return 3 * shape(node.outputs[0]!).at(-1)! <= shape(rows).at(-1)!;
}

/** The default: cheap arithmetic, activations, normalisations and narrowing products are computed again. */
export const recomputeDefault: RecomputePolicy = (node, shape) => {
  const key = operatorKey(node);
  return cheap.has(key) || activations.has(key) || narrows(node, shape);
};

/** Cheap arithmetic only. */
export const recomputeCheap: RecomputePolicy = (node) => cheap.has(operatorKey(node));

/** Everything that backward reads is kept, except views. */
export const recomputeNothing: RecomputePolicy = () => false;

export interface Recomputation {
  /** Backward's nodes, with forward nodes put in before their first use. */
  nodes: Node[];
  /** Forward values that must outlive forward, in forward order. */
  saved: string[];
  /** Bytes of `saved`, and of the values computed again instead of being saved. */
  savedBytes: number;
  sparedBytes: number;
}

/** `available` holds what backward has anyway: inputs, parameters, constants. */
export function planRecomputation(
  forward: Graph,
  types: ReadonlyMap<string, ValueType>,
  backward: readonly Node[],
  available: ReadonlySet<string>,
  policy: RecomputePolicy,
): Recomputation {
  const producers = producersOf(forward);
  const order = new Map(forward.nodes.map((node, i) => [node, i]));
  const bytes = (name: string) => valueBytes(types.get(name)!);
  const shape = (name: string) => types.get(name)!.shape;
  const own = new Set(backward.flatMap((node) => node.outputs));
  const read = new Set(backward.flatMap(readsOf));
  const wanted = [...read].filter((name) => !own.has(name) && !available.has(name));

  const kept = new Set<string>();
  const again = new Set<Node>();
  const atHand = (name: string): boolean => {
    if (available.has(name) || kept.has(name)) return true;
    const node = producers.get(name);
    return node !== undefined && again.has(node);
  };
  const isView = (node: Node) => views.has(operatorKey(node));
  /** The values under a chain of views that would have to be at hand. */
  const root = (name: string): string => {
    const node = producers.get(name);
    return node !== undefined && !available.has(name) && isView(node)
      ? root(node.inputs[0]!)
      : name;
  };
  const roots = [...new Set(wanted.map(root))].filter((name) => !available.has(name));
  roots.sort((a, b) => order.get(producers.get(a)!)! - order.get(producers.get(b)!)!);

  let sparedBytes = 0;
  for (const name of roots) {
    const node = producers.get(name)!;
    const inputsAtHand = readsOf(node).every((input) => atHand(root(input)));
    if (inputsAtHand && policy(node, shape)) {
      again.add(node);
      sparedBytes += bytes(name);
    } else {
      kept.add(name);
    }
  }

  const nodes: Node[] = [];
  const done = new Set<string>(own);
  const bring = (name: string): void => {
    if (available.has(name) || kept.has(name) || done.has(name)) return;
    const node = producers.get(name)!;
    for (const input of readsOf(node)) bring(input);
    for (const output of node.outputs) done.add(output);
    nodes.push(node);
  };
  for (const node of backward) {
    for (const input of readsOf(node)) bring(input);
    nodes.push(node);
  }
  const saved = roots.filter((name) => kept.has(name));
  const savedBytes = saved.reduce((total, name) => total + bytes(name), 0);
  return { nodes, saved, savedBytes, sparedBytes };
}

export function valueBytes(type: ValueType): number {
  return numel(type.shape) * elementSize(type.dtype);
}

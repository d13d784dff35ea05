/** Giving every deepspeed.Attention of a graph the blocks of the scores that it computes. */
import { attribute, intAttribute, stringAttribute } from '../attributes.ts';
import { attentionDims } from '../attention-dims.ts';
import { Emitter } from '../emitter.ts';
import type { Graph, Node, ValueType } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import { fromTyped } from '../tensor.ts';
import { producersOf } from '../topology.ts';
import type { TypedGraph } from './rewrite.ts';

/** An attention of queries to keys of the same sequence. */
export interface SelfAttention {
  heads: number;
  length: number;
  causal: boolean;
}

/** `heads[h]`, [⌈length/block⌉, ⌈length/block⌉] row-major: 1 where a block of the scores exists. */
export interface AttentionBlocks {
  readonly block: number;
  readonly heads: readonly Uint8Array[];
}

export interface SparseAttention {
  /** What was replaced, one entry for each attention, in the graph's order. */
  replaced: SelfAttention[];
  /** Attentions that stay as they are: a name and the reason. */
  dense: string[];
}

/** Index of the input `blocks`. */
const blocksInput = 9;

/** @param refused by the fusion: name of a node → why the attention around it was not recognised */
export function sparsifyAttention(
  typed: TypedGraph,
  blocksOf: (attention: SelfAttention) => AttentionBlocks,
  refused: ReadonlyMap<string, string>,
): TypedGraph & { attention: SparseAttention } {
  const types = new Map(typed.types);
  const emit = new Emitter(types, 'sparse/');
  const replaced: SelfAttention[] = [];
  const dense: string[] = [];
  const constants = new Map<string, string>();
  const sourceOf = sourceFinder(typed.graph);
  const nodes = typed.graph.nodes.map((node): Node => {
    if (operatorKey(node) !== 'deepspeed.Attention') return node;
    const found = selfAttention(node, types, sourceOf);
    if (typeof found === 'string') {
      dense.push(`${node.name || node.outputs[0]}: ${found}`);
      return node;
    }
    replaced.push(found);
    const key = JSON.stringify(found);
    const blocks = blocksOf(found);
    const mask = constants.get(key) ?? emit.tensor(maskOf(blocks));
    constants.set(key, mask);
    const inputs = Array.from({ length: blocksInput }, (_, i) => node.inputs[i] ?? '');
    const attributes = { ...node.attributes, block: attribute('block', blocks.block) };
    return { ...node, inputs: [...inputs, mask], attributes };
  });
  const graph: Graph = {
    ...typed.graph,
    nodes,
    initializers: new Map([...typed.graph.initializers, ...emit.constants]),
  };
  return { graph, types, attention: { replaced, dense: [...dense, ...unfused(graph, refused)] } };
}

function selfAttention(
  node: Node,
  types: ReadonlyMap<string, ValueType>,
  sourceOf: (value: string) => string,
): SelfAttention | string {
  const heads = intAttribute(node, 'heads', 1);
  const layout = stringAttribute(node, 'layout', '');
  const kvHeads = intAttribute(node, 'kv_heads', heads);
  const shapeOf = (index: number) => types.get(node.inputs[index] ?? '')?.shape;
  const { length, keys } = attentionDims(layout, heads, kvHeads, shapeOf(0)!, shapeOf(1))!;
  if (length !== keys) return `${length} queries attend to ${keys} keys: it is no self-attention`;
  if (layout !== 'packed' && sourceOf(node.inputs[0]!) !== sourceOf(node.inputs[1]!)) {
    return 'its keys come from elsewhere than its queries: it is no self-attention';
  }
  return { heads, length, causal: intAttribute(node, 'causal', 0) !== 0 };
}

/**
 * What a projection projects: back through whatever works on its result (bias, norm, rotation, moving heads)
 * to the first product with a weight.
 */
function sourceFinder(graph: Graph): (value: string) => string {
  const producers = producersOf(graph);
  const given = new Set([...graph.initializers.keys(), ...graph.inputs.map(({ name }) => name)]);
  return (value) => {
    for (let current = value; ; ) {
      const node = producers.get(current);
      if (node === undefined) return current;
      const next = node.inputs.find((input) => input !== '' && !given.has(input));
      if (/MatMul$|^Gemm$/.test(node.opType)) return next ?? node.inputs[0]!;
      if (next === undefined) return current;
      current = next;
    }
  };
}

/** bool [1 or heads, rows, columns]: one layout where all heads have the same. */
function maskOf({ heads }: AttentionBlocks) {
  const [first, ...others] = heads as [Uint8Array, ...Uint8Array[]];
  const shared = others.every((bitmap) => bitmap === first);
  const size = Math.sqrt(first.length);
  const data = new Uint8Array(first.length * (shared ? 1 : heads.length));
  for (const [i, bitmap] of (shared ? [first] : heads).entries())
    data.set(bitmap, i * first.length);
  return fromTyped('bool', [shared ? 1 : heads.length, size, size], data);
}

/** Attention of other operators, and softmaxes whose result a product takes: what was not recognised. */
function unfused(graph: Graph, refused: ReadonlyMap<string, string>): string[] {
  const operators = [
    'Attention',
    'com.microsoft.GroupQueryAttention',
    'com.microsoft.MultiHeadAttention',
  ];
  const readers = new Map<string, Node[]>();
  for (const node of graph.nodes)
    for (const input of node.inputs) readers.set(input, [...(readers.get(input) ?? []), node]);
  const isWeighting = (value: string): boolean =>
    (readers.get(value) ?? []).some((reader) => {
      const key = operatorKey(reader);
      if (/^(Cast|Identity|Dropout|Where|deepspeed\.Dropout)$/.test(key))
        return isWeighting(reader.outputs[0]!);
      return /MatMul$/.test(key) && reader.inputs[0] === value;
    });
  return graph.nodes.flatMap((node) => {
    const key = operatorKey(node);
    const isAttention = key === 'Softmax' ? isWeighting(node.outputs[0]!) : operators.includes(key);
    if (!isAttention) return [];
    const name = node.name || node.outputs[0]!;
    return [`${name}: ${refused.get(name) ?? `${node.opType} in a form that is not recognised`}`];
  });
}

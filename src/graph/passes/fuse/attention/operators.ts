/** Attention that a model has as one operator: of ai.onnx 23, or of ONNX Runtime. */
import { floatAttribute, intAttribute } from '../../../attributes.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import type { Fusion, GraphView, Match } from '../pattern.ts';
import { emitAttention, type FoundAttention } from './emit.ts';
import { Mask } from './mask.ts';
import { type Operand, trace } from './operand.ts';

export const operatorAttention: Fusion = {
  name: 'Attention → deepspeed.Attention',
  match(node, view, live) {
    const find = finders[operatorKey(node)];
    if (find === undefined) return undefined;
    const extra = node.outputs.slice(1).some((output) => live.has(output));
    const found = extra ? 'more than its first output is read' : find(node, view);
    if (typeof found !== 'string') return finished(node, view, found);
    view.keep(node.name || node.outputs[0]!, `${node.opType} not fused: ${found}`);
    return undefined;
  },
};

type Finder = (node: Node, view: GraphView) => FoundAttention | string;

const finders: Readonly<Record<string, Finder>> = {
  Attention: onnxAttention,
  'com.microsoft.MultiHeadAttention': multiHeadAttention,
};

function finished(node: Node, view: GraphView, found: FoundAttention): Match {
  const shape = view.shape(node.outputs[0]!);
  return emitAttention(view, found, shape, shape.length === 3);
}

/** Q, K, V, attn_mask?, past_key?, past_value? */
function onnxAttention(node: Node, view: GraphView): FoundAttention | string {
  if (node.inputs[4] || node.inputs[5]) return 'it reads a cache';
  if (floatAttribute(node, 'softcap', 0) !== 0) return 'its scores are capped';
  const heads = intAttribute(node, 'q_num_heads', 0);
  const kvHeads = intAttribute(node, 'kv_num_heads', 0);
  const sizes = sizesOf(node, view, heads, kvHeads);
  if (typeof sizes === 'string') return sizes;
  const mask = new Mask(view, { rank: 4, length: sizes.length, keys: sizes.keys, groups: 1 });
  const given = node.inputs[3];
  if (given && view.needsGradient(given)) return 'its mask needs a gradient';
  if (given && view.shape(given).at(-1) !== sizes.keys) return 'its mask is shorter than its keys';
  if (given && view.type(given).dtype === 'bool') mask.see(given, false);
  else if (given) mask.add(given, 1);
  if (intAttribute(node, 'is_causal', 0) !== 0) {
    if (sizes.length !== sizes.keys) return 'it is causal over fewer queries than keys';
    mask.causal = true;
  }
  const own = floatAttribute(node, 'scale', 1 / Math.sqrt(sizes.width));
  const scale = own * sizes.q.factor * sizes.k.factor;
  return { ...sizes, scale, mask, rotation: undefined, dropout: undefined };
}

/** query, key, value, bias?, key_padding_mask?, attention_bias?, past... */
function multiHeadAttention(node: Node, view: GraphView): FoundAttention | string {
  const [, k, v, bias, padding, added, ...past] = node.inputs;
  if (!k || !v) return 'queries, keys and values are interleaved in one input';
  if (past.some(Boolean)) return 'it reads a cache';
  if (bias) return 'it adds a bias to queries, keys and values';
  const heads = intAttribute(node, 'num_heads', 0);
  const sizes = sizesOf(node, view, heads, heads);
  if (typeof sizes === 'string') return sizes;
  const mask = new Mask(view, { rank: 4, length: sizes.length, keys: sizes.keys, groups: 1 });
  if (padding) {
    const perKey = view.shape(padding).join() === [sizes.batch, sizes.keys].join();
    if (!perKey) return 'its padding mask is not one number a key';
    mask.keys.push({ value: padding, negate: false });
  }
  if (added && view.needsGradient(added)) return 'its bias needs a gradient';
  if (added) mask.add(added, 1);
  if (intAttribute(node, 'unidirectional', 0) !== 0) mask.causal = true;
  const own = floatAttribute(node, 'scale', 0) || 1 / Math.sqrt(sizes.width);
  const scale = own * sizes.q.factor * sizes.k.factor;
  return { ...sizes, scale, mask, rotation: undefined, dropout: undefined };
}

type SizedOperands = Omit<FoundAttention, 'scale' | 'mask' | 'rotation' | 'dropout'>;

/** Operands [B, S, heads · D] with the numbers of heads, or [B, heads, S, D]. */
function sizesOf(
  node: Node,
  view: GraphView,
  heads: number,
  kvHeads: number,
): SizedOperands | string {
  const [q, k, v] = node.inputs as [string, string, string];
  const shapes = [q, k, v].map((value) => view.shape(value));
  const four = shapes.every((shape) => shape.length === 4);
  if (!four && !shapes.every((shape) => shape.length === 3)) return 'its inputs differ in rank';
  const counts = four ? shapes.map((shape) => shape[1]!) : [heads, kvHeads, kvHeads];
  const [length, keys] = shapes.map((shape) => shape.at(-2)!) as [number, number];
  const widths = shapes.map((shape, i) => (four ? shape[3]! : shape[2]! / counts[i]!));
  if (counts[1] !== counts[2] || counts[0]! % counts[1]! !== 0) {
    return 'its heads do not fit each other';
  }
  if (widths.some((width) => width !== widths[0])) return 'queries and values differ in width';
  const operand = (value: string, i: number): Operand =>
    four
      ? trace(view, value, 'bhsd', { heads: counts[i]!, rotated: false })
      : { value, axes: 'bsd', heads: counts[i]!, factor: 1, rotation: undefined };
  const [a, b, c] = [q, k, v].map(operand) as [Operand, Operand, Operand];
  if (b.heads !== c.heads) return 'keys and values are repeated differently';
  return {
    batch: shapes[0]![0]!,
    heads: counts[0]!,
    kvHeads: b.heads,
    length,
    keys,
    width: widths[0]!,
    q: a,
    k: b,
    v: c,
  };
}

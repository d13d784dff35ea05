/** Attention that a model has as one operator: of ai.onnx 23, or of ONNX Runtime. */
import { floatAttribute, intAttribute } from '../../../attributes.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import type { Fusion, GraphView, Match } from '../pattern.ts';
import { emitAttention, type FoundAttention } from './emit.ts';
import { Mask } from './mask.ts';
import { type Operand, sameRotation, trace } from './operand.ts';

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
  'com.microsoft.GroupQueryAttention': groupQueryAttention,
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
  return withScale(sizes, mask, floatAttribute(node, 'scale', 0));
}

/** query, key, value, bias?, key_padding_mask?, attention_bias?, past... */
function multiHeadAttention(node: Node, view: GraphView): FoundAttention | string {
  const [, k, v, bias, padding, added, ...past] = node.inputs;
  if (!k || !v) return 'queries, keys and values are interleaved in one input';
  if (past.some(Boolean)) return 'it reads a cache';
  const heads = intAttribute(node, 'num_heads', 0);
  const sizes = sizesOf(node, view, heads, heads);
  if (typeof sizes === 'string') return sizes;
  if (bias && !sizes.q.axes.startsWith('bsd')) return 'it adds a bias to heads that come first';
  const mask = new Mask(view, { rank: 4, length: sizes.length, keys: sizes.keys, groups: 1 });
  if (padding) {
    const perKey = view.shape(padding).join() === [sizes.batch, sizes.keys].join();
    if (!perKey) return 'its padding mask is not one number a key';
    mask.keys.push({ value: padding, negate: false });
  }
  if (added && view.needsGradient(added)) return 'its bias needs a gradient';
  if (added) mask.add(added, 1);
  if (intAttribute(node, 'unidirectional', 0) !== 0) mask.causal = true;
  const found = withScale(sizes, mask, floatAttribute(node, 'scale', 0));
  return bias ? { ...found, added: bias } : found;
}

/**
 * query (with key and value behind it in each row, where they are absent), key?, value?, past_key?,
 * past_value?, seqlens_k, total_sequence_length, cos_cache?, sin_cache?, position_ids?, attention_bias?,
 * head_sink?. Sequence lengths only say where padding begins: after all that a causal query sees.
 */
function groupQueryAttention(node: Node, view: GraphView): FoundAttention | string {
  const [query, key, , past, , , total, cos, sin, positions, added, sink] = node.inputs;
  const heads = intAttribute(node, 'num_heads', 0);
  const kvHeads = intAttribute(node, 'kv_num_heads', 0);
  const sizes = key
    ? sizesOf(node, view, heads, kvHeads)
    : packedSizes(view, query!, heads, kvHeads);
  if (typeof sizes === 'string') return sizes;
  const known = total ? view.scalar(total) : undefined;
  if ((past && view.shape(past)[2] !== 0) || (known !== undefined && known !== sizes.length)) {
    return 'it reads a cache';
  }
  if (sizes.length !== sizes.keys) return 'it is causal over fewer queries than keys';
  if (intAttribute(node, 'local_window_size', -1) !== -1) return 'it has a local window';
  if (floatAttribute(node, 'softcap', 0) !== 0) return 'its scores are capped';
  if (sink || intAttribute(node, 'smooth_softmax', 0) !== 0) return 'its softmax is smoothed';
  if (added && view.needsGradient(added)) return 'its bias needs a gradient';
  const mask = new Mask(view, { rank: 4, length: sizes.length, keys: sizes.keys, groups: 1 });
  if (added) mask.add(added, 1);
  mask.causal = true;
  const found = withScale(sizes, mask, floatAttribute(node, 'scale', 0));
  if (intAttribute(node, 'do_rotary', 0) === 0) return found;
  if (!cos || !sin || positions) return 'its positions are given';
  if (intAttribute(node, 'rotary_interleaved', 0) !== 0) return 'its rotation is interleaved';
  if (view.shape(cos)[1]! * 2 !== sizes.width) return 'it rotates a part of each head';
  if ([cos, sin].some((table) => view.needsGradient(table))) {
    return 'its rotary tables need a gradient';
  }
  return { ...found, rotation: { cos, sin } };
}

type Sized = Omit<FoundAttention, 'scale' | 'mask' | 'dropout'>;

/** @param scale 0: 1 / √width */
function withScale(sizes: Sized, mask: Mask, scale: number): FoundAttention {
  const own = scale || 1 / Math.sqrt(sizes.width);
  return { ...sizes, scale: own * sizes.q.factor * sizes.k.factor, mask, dropout: undefined };
}

/** x [B, S, (heads + 2 · kvHeads) · D]: queries, keys and values side by side in each row. */
function packedSizes(view: GraphView, x: string, heads: number, kvHeads: number): Sized | string {
  const [batch, length, row] = view.shape(x) as [number, number, number];
  const part = { value: x, axes: 'bsd', factor: 1, rotation: undefined };
  const sizes = { batch, heads, kvHeads, length, keys: length, width: row / (heads + 2 * kvHeads) };
  const [q, kv] = [heads, kvHeads].map((count) => ({ ...part, heads: count })) as [
    Operand,
    Operand,
  ];
  return { ...sizes, q, k: kv, v: kv, packed: x, rotation: undefined };
}

/** Operands [B, S, heads · D] with the numbers of heads, or [B, heads, S, D]. */
function sizesOf(node: Node, view: GraphView, heads: number, kvHeads: number): Sized | string {
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
  const operand = (value: string, i: number, rotated: boolean): Operand =>
    four
      ? trace(view, value, 'bhsd', { heads: counts[i]!, rotated })
      : { value, axes: 'bsd', heads: counts[i]!, factor: 1, rotation: undefined };
  const operands = sameRotation(view, length === keys, (rotated) => ({
    q: operand(q, 0, rotated),
    k: operand(k, 1, rotated),
    v: operand(v, 2, false),
  }));
  if (operands.k.heads !== operands.v.heads) return 'keys and values are repeated differently';
  const [batch, width] = [shapes[0]![0]!, widths[0]!];
  return { batch, heads: counts[0]!, kvHeads: operands.k.heads, length, keys, width, ...operands };
}

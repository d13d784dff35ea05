/**
 * softmax(scale · Q·Kᵀ + mask) · V, however a model writes it, as deepspeed.Attention. Two places are
 * looked at: the transposition that brings the heads behind the positions again, which the operator makes
 * needless, and the product with the values.
 */
import { floatAttribute, intAttribute, intsAttribute } from '../../../attributes.ts';
import { positiveAxis } from '../../../emitter.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import type { Fusion, GraphView, Match } from '../pattern.ts';
import { uniform } from './constant.ts';
import { emitAttention, type FoundAttention } from './emit.ts';
import { Mask } from './mask.ts';
import { sameRotation, trace } from './operand.ts';
import { type Masking, type Scores, scoresOf } from './scores.ts';

const products = ['MatMul', 'com.microsoft.FusedMatMul'];

export const attention: Fusion = {
  name: 'attention → deepspeed.Attention',
  match(node, view) {
    const key = operatorKey(node);
    if (products.includes(key)) return matched(view, node, node.outputs[0]!, false);
    if (key !== 'Transpose' || intsAttribute(node, 'perm')?.join() !== '0,2,1,3') return undefined;
    const context = node.inputs[0]!;
    const product = view.from(context, ...products) ?? groupedContext(view, context);
    return product && matched(view, product, node.outputs[0]!, true);
  },
};

function matched(
  view: GraphView,
  product: Node,
  output: string,
  rowsLast: boolean,
): Match | undefined {
  const weights = weightsOf(view, product);
  if (weights === undefined) return undefined;
  const found = find(view, product, weights);
  if (found === undefined) return undefined;
  if (typeof found === 'string') {
    view.keep(weights.softmax.name || weights.softmax.outputs[0]!, `attention not fused: ${found}`);
    return undefined;
  }
  return emitAttention(view, found, view.shape(output), rowsLast);
}

/** The product under the Reshape that takes grouped queries apart again. */
function groupedContext(view: GraphView, context: string): Node | undefined {
  const reshape = view.from(context, 'Reshape');
  return reshape && view.from(reshape.inputs[0], ...products);
}

interface Weights {
  softmax: Node;
  dropout: Node | undefined;
}

/** The softmax, and the dropout after it, whose result a product takes as its left factor. */
function weightsOf(view: GraphView, product: Node): Weights | undefined {
  if (intAttribute(product, 'transA', 0) !== 0) return undefined;
  let node = view.from(product.inputs[0]);
  let dropout: Node | undefined;
  while (node !== undefined) {
    const key = operatorKey(node);
    if (key === 'Softmax') {
      const rank = view.shape(node.inputs[0]!).length;
      const last = positiveAxis(intAttribute(node, 'axis', -1), rank) === rank - 1;
      return last ? { softmax: node, dropout } : undefined;
    }
    let source = node.inputs[0];
    if (key === 'deepspeed.Dropout' && dropout === undefined) dropout = node;
    else source = passedOn(view, node);
    node = view.from(source);
  }
  return undefined;
}

/**
 * The value that a node hands on as it is. Exporters leave casts to the type that a value has, dropout that
 * is off, and after a softmax zeros for NaN: rows that see nothing, for which the operator gives zeros too.
 */
function passedOn(view: GraphView, node: Node): string | undefined {
  const { inputs, outputs } = node;
  const [first, second, third] = inputs;
  switch (operatorKey(node)) {
    case 'Identity':
      return first;
    case 'Cast':
      return view.type(first!).dtype === view.type(outputs[0]!).dtype ? first : undefined;
    case 'Dropout':
      return outputs.length === 1 && (!third || view.scalar(third) === 0) ? first : undefined;
    case 'Where': {
      const isGuard =
        view.from(first, 'IsNaN')?.inputs[0] === third && uniform(view, second!) === 0;
      return isGuard ? third : undefined;
    }
    default:
      return undefined;
  }
}

/** Everything the operator needs, or why it cannot take the place. */
function find(
  view: GraphView,
  product: Node,
  { softmax, dropout }: Weights,
): FoundAttention | string | undefined {
  const scores = scoresOf(view, softmax.inputs[0]!);
  if (scores === undefined || typeof scores === 'string') return scores;
  const rank = view.shape(softmax.outputs[0]!).length;
  if (rank !== 3 && rank !== 4) return `its scores have ${rank} axes`;
  if (intAttribute(product, 'transB', 0) || floatAttribute(product, 'alpha', 1) !== 1) {
    return 'its values are transposed or scaled';
  }
  const sizes = sizesOf(view, scores, product.inputs[1]!, rank);
  return typeof sizes === 'string' ? sizes : assemble(view, scores, product, dropout, rank, sizes);
}

interface Sizes {
  batch: number;
  heads: number;
  kvHeads: number;
  length: number;
  keys: number;
  width: number;
  /** Query heads that follow each other as rows of one product. */
  groups: number;
  /** Q before its heads were laid out in groups. */
  q: string;
}

function sizesOf(view: GraphView, scores: Scores, v: string, rank: number): Sizes | string {
  const four = (value: string): readonly number[] => {
    const shape = view.shape(value);
    return rank === 3 && shape.length === 3 ? [shape[0]!, 1, shape[1]!, shape[2]!] : shape;
  };
  const apart = rank === 4 ? ungrouped(view, scores.q) : undefined;
  const [q, values] = [four(apart?.value ?? scores.q), four(v)];
  const k = scores.transposedKeys ? four(scores.k) : swapLast(four(scores.k));
  if (q.length !== 4 || k.length !== 4 || values.length !== 4) return 'its factors differ in rank';
  if (k[0] !== q[0] || values[0] !== q[0]) return 'its batch axes differ';
  if (k[1] !== values[1] || q[1]! % k[1]! !== 0) return 'its heads do not fit each other';
  if (q[3] !== k[3] || values[3] !== k[3]) return 'queries, keys and values differ in width';
  return {
    batch: q[0]!,
    heads: q[1]!,
    kvHeads: k[1]!,
    length: q[2]!,
    keys: k[2]!,
    width: q[3]!,
    groups: apart?.groups ?? 1,
    q: apart?.value ?? scores.q,
  };
}

function swapLast(shape: readonly number[]): readonly number[] {
  return shape.length < 2 ? shape : [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
}

/** x [B, H, S, D] of its view [B, H/G, G·S, D]. */
function ungrouped(view: GraphView, q: string): { value: string; groups: number } | undefined {
  const source = view.from(q, 'Reshape')?.inputs[0];
  if (source === undefined) return undefined;
  const [from, to] = [view.shape(source), view.shape(q)];
  if (from.length !== 4 || from[0] !== to[0] || from[3] !== to[3]) return undefined;
  const groups = from[1]! / to[1]!;
  const fits = Number.isInteger(groups) && groups > 1 && from[2]! * groups === to[2];
  return fits ? { value: source, groups } : undefined;
}

function assemble(
  view: GraphView,
  scores: Scores,
  product: Node,
  dropout: Node | undefined,
  rank: number,
  sizes: Sizes,
): FoundAttention | string {
  const head = rank === 4 ? 'h' : '';
  const keyAxes = scores.transposedKeys ? `b${head}sd` : `b${head}ds`;
  const operands = sameRotation(view, sizes.length === sizes.keys, (rotated) => ({
    q: trace(view, sizes.q, `b${head}sd`, { heads: sizes.heads, rotated }),
    k: trace(view, scores.k, keyAxes, { heads: sizes.kvHeads, rotated }),
    v: trace(view, product.inputs[1]!, `b${head}sd`, { heads: sizes.kvHeads, rotated: false }),
  }));
  const { q, k, v } = operands;
  if (k.heads !== v.heads) {
    return 'keys and values are repeated differently';
  }
  const mask = maskOf(view, scores.maskings, { ...sizes, rank });
  if (typeof mask === 'string') return mask;
  const scale = scores.scale * q.factor * k.factor;
  return { ...sizes, kvHeads: k.heads, ...operands, scale, mask, dropout };
}

function maskOf(
  view: GraphView,
  maskings: readonly Masking[],
  size: Sizes & { rank: number },
): Mask | string {
  const mask = new Mask(view, size);
  for (const masking of maskings) {
    if (masking.kind === 'added') mask.add(masking.value, masking.factor);
    else mask.see(masking.value, masking.negate);
  }
  for (const { value } of [...mask.bias, ...mask.visible]) {
    if (view.needsGradient(value)) return 'its bias needs a gradient';
    const shape = view.shape(value);
    const rows = shape.at(-2) ?? 1;
    if (rows !== 1 && rows !== size.length) return 'its mask differs between grouped queries';
    if (size.groups > 1 && (shape.at(-3) ?? 1) !== 1) return 'its mask differs between heads';
  }
  return mask;
}

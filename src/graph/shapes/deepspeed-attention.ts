/** Shapes of deepspeed.Attention and its gradient: see docs/operators.md. */
import { type AttentionDims, attentionDims } from '../attention-dims.ts';
import { broadcast } from './broadcast.ts';
import { like, type Operands, type ShapeRule } from './operands.ts';

/** `first` is the index of Q, `options` that of bias. */
function dimsOf(node: Operands, first: number, options: number): AttentionDims {
  const heads = node.int('heads', 0);
  const layout = node.string('layout', '');
  const k = node.optional(first + 1)?.shape;
  const dims = attentionDims(layout, heads, node.int('kv_heads', heads), node.shape(first), k);
  if (dims === undefined) {
    throw node.mismatch(`Q and K do not fit layout '${layout}' with ${heads} heads`);
  }
  if (k !== undefined) {
    const sameShape = node.shape(first + 2).join() === k.join();
    node.require(sameShape, 'K and V differ in shape');
  }
  checkOptions(node, options, dims);
  return dims;
}

/** bias?, keyMask?, cos?, sin?, rng?, training?, blocks? */
function checkOptions(
  node: Operands,
  at: number,
  { batch, heads, length, keys, width }: AttentionDims,
): void {
  const scores = [batch, heads, length, keys];
  const bias = node.optional(at);
  if (bias !== undefined) {
    const fits = broadcast(bias.shape, scores)?.join() === scores.join();
    node.require(fits, `the bias does not broadcast to [${scores.join(', ')}]`);
  }
  const expect = (index: number, shape: number[], what: string) => {
    if (!node.has(index)) return;
    node.require(node.shape(index).join() === shape.join(), `${what} is not [${shape.join(', ')}]`);
  };
  expect(at + 1, [batch, keys], 'keyMask');
  if (node.has(at + 2)) {
    node.require(length === keys, 'rotation needs as many keys as queries');
    expect(at + 2, [length, width / 2], 'cos');
    expect(at + 3, [length, width / 2], 'sin');
  }
  expect(at + 4, [2 + batch], 'rng');
  const block = node.int('block', 16);
  const [rows, columns] = [length, keys].map((count) => Math.ceil(count / block)) as [
    number,
    number,
  ];
  const layouts = node.optional(at + 6)?.shape[0] === 1 ? 1 : heads;
  expect(at + 6, [layouts, rows, columns], 'blocks');
}

/** Q, K?, V?, then options → Y, lse */
export const attention: ShapeRule = (node) => {
  const { layout, batch, heads, length, width } = dimsOf(node, 0, 3);
  const shape = layout === 'packed' ? [batch, length, heads * width] : node.shape(0);
  return [
    { dtype: node.dtype(0), shape },
    { dtype: node.dtype(0), shape: [batch, heads, length] },
  ];
};

/** dY, Q, K?, V?, Y, lse, then options → dQ, dK?, dV? */
export const attentionGrad: ShapeRule = (node) => {
  const { layout } = dimsOf(node, 1, 6);
  node.require(node.shape(0).join() === node.shape(4).join(), 'dY and Y differ in shape');
  return layout === 'packed' ? [like(node, 1)] : [like(node, 1), like(node, 2), like(node, 3)];
};

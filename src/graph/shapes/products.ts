/** Matrix products and attention. */
import type { Operands, ShapeRule } from './operands.ts';
import { broadcast } from './broadcast.ts';

/** Swaps the last two dimensions, or not. */
export function maybeTransposed(shape: readonly number[], transposed: boolean): readonly number[] {
  if (!transposed || shape.length < 2) return shape;
  return [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
}

/** Batches broadcast, the last axis of A meets the second to last of B; vectors lose their added axis. */
export function product(node: Operands, a: readonly number[], b: readonly number[]): number[] {
  node.require(a.length > 0 && b.length > 0, 'a scalar has no matrix product');
  const left = a.length === 1 ? [1, a[0]!] : a;
  const right = b.length === 1 ? [b[0]!, 1] : b;
  const inner = left.at(-1)!;
  node.require(inner === right.at(-2), `inner dimensions differ: ${inner} and ${right.at(-2)}`);
  const batch = broadcast(left.slice(0, -2), right.slice(0, -2));
  if (batch === undefined) throw node.mismatch('the batch dimensions do not broadcast');
  const rows = a.length === 1 ? [] : [left.at(-2)!];
  const columns = b.length === 1 ? [] : [right.at(-1)!];
  return [...batch, ...rows, ...columns];
}

export const matMul: ShapeRule = (node) => {
  node.require(node.dtype(0) === node.dtype(1), 'the factors differ in element type');
  return [{ dtype: node.dtype(0), shape: product(node, node.shape(0), node.shape(1)) }];
};

/** com.microsoft: the last two axes of a factor may be swapped, or its first axis moved before the last. */
export const fusedMatMul: ShapeRule = (node) => {
  const factor = (index: number, letter: string) => {
    let shape = node.shape(index);
    if (node.int(`transBatch${letter}`, 0) !== 0) {
      shape = [...shape.slice(1, -1), shape[0]!, shape.at(-1)!];
    }
    return maybeTransposed(shape, node.int(`trans${letter}`, 0) !== 0);
  };
  return [{ dtype: node.dtype(0), shape: product(node, factor(0, 'A'), factor(1, 'B')) }];
};

/** alpha·A·B + beta·C with matrices; C broadcasts one way. */
export const gemm: ShapeRule = (node) => {
  node.require(node.shape(0).length === 2 && node.shape(1).length === 2, 'Gemm takes matrices');
  const a = maybeTransposed(node.shape(0), node.int('transA', 0) !== 0);
  const b = maybeTransposed(node.shape(1), node.int('transB', 0) !== 0);
  const shape = product(node, a, b);
  const bias = node.optional(2);
  if (bias !== undefined) {
    const fits = broadcast(bias.shape, shape)?.join() === shape.join();
    node.require(fits, `C does not broadcast to [${shape.join(', ')}]`);
  }
  return [{ dtype: node.dtype(0), shape }];
};

/**
 * ai.onnx Attention. Q, K, V are [batch, heads, length, size], or [batch, length, heads·size] with the
 * head counts as attributes; outputs Y, present key, present value.
 */
export const attention: ShapeRule = (node) => {
  const dtype = node.dtype(0);
  const folded = node.shape(0).length === 3;
  const heads = (index: number): number[] => {
    const shape = node.shape(index);
    if (shape.length === 4) return [...shape];
    const count = node.int(index === 0 ? 'q_num_heads' : 'kv_num_heads', 0);
    node.require(count > 0 && shape.length === 3, 'an input of 3 dimensions needs head counts');
    return [shape[0]!, count, shape[1]!, shape[2]! / count];
  };
  const [q, k, v] = [heads(0), heads(1), heads(2)];
  node.require(q[3] === k[3], `query and key heads have ${q[3]} and ${k[3]} elements`);
  const past = node.optional(4)?.shape[2] ?? 0;
  const y = folded ? [q[0]!, q[2]!, q[1]! * v[3]!] : [q[0]!, q[1]!, q[2]!, v[3]!];
  return [
    { dtype, shape: y },
    { dtype, shape: k.with(2, k[2]! + past) },
    { dtype, shape: v.with(2, v[2]! + past) },
    { dtype, shape: [q[0]!, q[1]!, q[2]!, k[2]! + past] },
  ];
};

/** A product with a transposed operand, which FusedMatMul takes as it is. */
import { intsAttribute } from '../../attributes.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion, GraphView } from './pattern.ts';

/** x of a Transpose that swaps the last two axes. */
function swapped(view: GraphView, value: string): string | undefined {
  const node = view.from(value, 'Transpose');
  if (node === undefined) return undefined;
  const rank = view.shape(value).length;
  if (rank < 2) return undefined;
  const perm = intsAttribute(node, 'perm') ?? (rank === 2 ? [1, 0] : undefined);
  const axes = Array.from({ length: rank }, (_, i) => i);
  const swap = [...axes.slice(0, -2), rank - 1, rank - 2];
  return perm && swap.every((axis, i) => perm[i] === axis) ? node.inputs[0] : undefined;
}

export const transposedProduct: Fusion = {
  name: 'MatMul of transposed operands → com.microsoft.FusedMatMul',
  match(node, view) {
    if (operatorKey(node) !== 'MatMul') return undefined;
    const [left, right] = node.inputs as [string, string];
    if (view.shape(left).length < 2 || view.shape(right).length < 2) return undefined;
    const [a, b] = [swapped(view, left), swapped(view, right)];
    if (a === undefined && b === undefined) return undefined;
    const options = { transA: a !== undefined, transB: b !== undefined };
    return () => [view.emit.product(a ?? left, b ?? right, options)];
  },
};

/** Shapes of our matrix products: see docs/operators.md. */
import { numel } from '../tensor.ts';
import { like, type Operands, type ShapeRule, token } from './operands.ts';
import { maybeTransposed, product } from './products.ts';

function operand(node: Operands, index: number, attribute: string, fallback: number) {
  return maybeTransposed(node.shape(index), node.int(attribute, fallback) !== 0);
}

function requireShape(node: Operands, index: number, shape: readonly number[], what: string): void {
  if (!node.has(index)) return;
  node.require(
    node.shape(index).join() === shape.join(),
    `${what} does not have the shape [${shape.join(', ')}]`,
  );
}

/** A, B, A2?, bias [N]?, residual?, Z? → Y [..., M, N] */
export const matMul: ShapeRule = (node) => {
  const matrices = node.shape(0).length >= 2 && node.shape(1).length >= 2;
  node.require(matrices, 'MatMul of this domain takes matrices');
  const shape = product(node, operand(node, 0, 'transA', 0), operand(node, 1, 'transB', 0));
  requireShape(node, 2, node.shape(0), 'A2');
  requireShape(node, 3, [shape.at(-1)!], 'bias');
  requireShape(node, 4, shape, 'residual');
  requireShape(node, 5, shape, 'Z');
  return [{ dtype: node.dtype(0), shape }];
};

/** A value as a matrix, its leading axes flattened. */
function flat(shape: readonly number[]): number[] {
  return [numel(shape.slice(0, -1)), shape.at(-1)!];
}

/** A, B, buffer [M, N], first, A2?, biasBuffer [N]?, biasFirst?, B2? → token */
export const matMulAccumulate: ShapeRule = (node) => {
  const a = maybeTransposed(flat(node.shape(0)), node.int('transA', 1) !== 0);
  const b = maybeTransposed(flat(node.shape(1)), node.int('transB', 0) !== 0);
  requireShape(node, 2, product(node, a, b), 'the buffer');
  requireShape(node, 4, node.shape(0), 'A2');
  requireShape(node, 5, [b[1]!], 'the bias buffer');
  requireShape(node, 7, node.shape(1), 'B2');
  return [token];
};

function linearRows(node: Operands, x: number, w: number, labels: number): void {
  const width = node.int('transposed', 0) !== 0 ? node.shape(w)[0] : node.shape(w)[1];
  node.require(node.shape(x).at(-1) === width, 'X and W differ in width');
  const rows = node.shape(x).slice(0, -1).join();
  node.require(rows === node.shape(labels).join(), 'there is not one label per row');
}

/** X [T, D], W, labels [T] → loss [T], lse [T] */
export const linearCrossEntropy: ShapeRule = (node) => {
  linearRows(node, 0, 1, 2);
  const rows = { dtype: node.dtype(0), shape: node.shape(2) };
  return [rows, rows];
};

/** dLoss [T], X, W, labels, lse, buffer?, first?, dLse [T]? → dX, token */
export const linearCrossEntropyGrad: ShapeRule = (node) => {
  linearRows(node, 1, 2, 3);
  requireShape(node, 7, node.shape(3), 'dLse');
  requireShape(node, 5, node.shape(2), 'the buffer');
  return [like(node, 1), token];
};

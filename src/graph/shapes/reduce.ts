/** Operators that shrink axes: sums, maxima, positions of maxima. */
import type { ReduceOperator } from '../operators.ts';
import type { Operands, ShapeRule } from './operands.ts';

/** The axes that a reduction removes: from the attribute, from input 1, or all. */
export function reducedAxes(node: Operands): number[] {
  const rank = node.shape(0).length;
  const axes = node.axes(1) ?? [];
  if (axes.length > 0) return axes.map((axis) => node.axis(axis, rank));
  return node.int('noop_with_empty_axes', 0) === 0 ? Array.from({ length: rank }, (_, i) => i) : [];
}

function shrink(shape: readonly number[], axes: readonly number[], keep: boolean): number[] {
  return keep
    ? shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim))
    : shape.filter((_, axis) => !axes.includes(axis));
}

const reduce: ShapeRule = (node) => {
  const shape = shrink(node.shape(0), reducedAxes(node), node.int('keepdims', 1) !== 0);
  return [{ dtype: node.dtype(0), shape }];
};

/** ArgMax, ArgMin */
export const argReduce: ShapeRule = (node) => {
  const shape = node.shape(0);
  const axis = node.axis(node.int('axis', 0), shape.length);
  return [{ dtype: 'int64', shape: shrink(shape, [axis], node.int('keepdims', 1) !== 0) }];
};

export const topK: ShapeRule = (node) => {
  const k = node.values(1, 'k')[0]!;
  const axis = node.axis(node.int('axis', -1), node.shape(0).length);
  node.require(k <= node.shape(0)[axis]!, `k = ${k} exceeds axis ${axis}`);
  const shape = node.shape(0).with(axis, k);
  return [
    { dtype: node.dtype(0), shape },
    { dtype: 'int64', shape },
  ];
};

export const reduceRules: Record<ReduceOperator, ShapeRule> = {
  ReduceL1: reduce,
  ReduceL2: reduce,
  ReduceLogSum: reduce,
  ReduceLogSumExp: reduce,
  ReduceMax: reduce,
  ReduceMean: reduce,
  ReduceMin: reduce,
  ReduceProd: reduce,
  ReduceSum: reduce,
  ReduceSumSquare: reduce,
};

/** The elements of computed constants. */
import type { BinaryOperator, ComparisonOperator, ReduceOperator } from '../operators.ts';
import { numel } from '../tensor.ts';
import { positions, stridesOf } from './broadcast.ts';
import type { Evaluator } from './evaluate.ts';
import { broadcastValues } from './evaluate-layout.ts';
import { reducedAxes } from './reduce.ts';

type Combine = (a: number, b: number) => number;

const binary: Record<Exclude<BinaryOperator, 'Mod' | 'PRelu'>, Combine> = {
  Add: (a, b) => a + b,
  Sub: (a, b) => a - b,
  Mul: (a, b) => a * b,
  Div: (a, b) => a / b,
  Pow: (a, b) => a ** b,
};

const comparison: Record<ComparisonOperator, (a: number, b: number) => boolean> = {
  Equal: (a, b) => a === b,
  Greater: (a, b) => a > b,
  GreaterOrEqual: (a, b) => a >= b,
  Less: (a, b) => a < b,
  LessOrEqual: (a, b) => a <= b,
  And: (a, b) => a !== 0 && b !== 0,
  Or: (a, b) => a !== 0 || b !== 0,
  Xor: (a, b) => (a !== 0) !== (b !== 0),
};

const unary: Record<string, (x: number) => number> = {
  Abs: Math.abs,
  Ceil: Math.ceil,
  Cos: Math.cos,
  Exp: Math.exp,
  Floor: Math.floor,
  Log: Math.log,
  Neg: (x) => -x,
  Not: (x) => (x === 0 ? 1 : 0),
  Reciprocal: (x) => 1 / x,
  Relu: (x) => Math.max(0, x),
  Sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  Sign: Math.sign,
  Sin: Math.sin,
  Sqrt: Math.sqrt,
  Tanh: Math.tanh,
};

interface Reduction {
  start: number;
  combine: Combine;
  finish?: (value: number, count: number) => number;
}

const reductions: Record<Exclude<ReduceOperator, 'ReduceLogSum' | 'ReduceLogSumExp'>, Reduction> = {
  ReduceL1: { start: 0, combine: (sum, x) => sum + Math.abs(x) },
  ReduceL2: { start: 0, combine: (sum, x) => sum + x * x, finish: Math.sqrt },
  ReduceMax: { start: Number.NEGATIVE_INFINITY, combine: Math.max },
  ReduceMean: { start: 0, combine: (sum, x) => sum + x, finish: (sum, count) => sum / count },
  ReduceMin: { start: Number.POSITIVE_INFINITY, combine: Math.min },
  ReduceProd: { start: 1, combine: (product, x) => product * x },
  ReduceSum: { start: 0, combine: (sum, x) => sum + x },
  ReduceSumSquare: { start: 0, combine: (sum, x) => sum + x * x },
};

const elementwise =
  (compute: (...values: number[]) => number): Evaluator =>
  (node, [output]) => {
    const operands = Array.from({ length: node.count }, (_, i) =>
      broadcastValues(node, i, output!),
    );
    const [first, second] = operands;
    if (node.count === 1) return [first!.map((value) => compute(value))];
    if (node.count === 2) return [first!.map((value, at) => compute(value, second![at]!))];
    return [first!.map((_, at) => compute(...operands.map((values) => values[at]!)))];
  };

/** Integer Mod takes the divisor's sign unless fmod is set; float Mod needs fmod. */
const mod: Evaluator = (node, outputs) => {
  const truncated = node.int('fmod', 0) !== 0;
  const compute: Combine = truncated ? (a, b) => a % b : (a, b) => ((a % b) + b) % b;
  return elementwise(compute as (...values: number[]) => number)(node, outputs);
};

const where = elementwise((condition, yes, no) => (condition !== 0 ? yes! : no!) as number);

const reduce =
  ({ start, combine, finish }: Reduction): Evaluator =>
  (node, [output]) => {
    const shape = node.shape(0);
    const axes = reducedAxes(node);
    const kept = shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim));
    const strides = stridesOf(kept).map((stride, axis) => (axes.includes(axis) ? 0 : stride));
    const result = Array<number>(numel(output!.shape)).fill(start);
    const targets = positions(shape, strides);
    for (const [i, value] of node.values(0, 'data').entries()) {
      result[targets[i]!] = combine(result[targets[i]!]!, value);
    }
    const count = axes.reduce((product, axis) => product * shape[axis]!, 1);
    return [finish === undefined ? result : result.map((value) => finish(value, count))];
  };

/** Running sums along one axis. */
const cumSum: Evaluator = (node) => {
  const shape = node.shape(0);
  const axis = node.axis(node.values(1, 'axis')[0]!, shape.length);
  const [size, stride] = [shape[axis]!, stridesOf(shape)[axis]!];
  const reverse = node.int('reverse', 0) !== 0;
  const exclusive = node.int('exclusive', 0) !== 0;
  const values = node.values(0, 'data');
  const result = [...values];
  const lineStarts = positions(shape.with(axis, 1), stridesOf(shape));
  for (const start of lineStarts) {
    let sum = 0;
    for (let step = 0; step < size; step++) {
      const at = start + (reverse ? size - 1 - step : step) * stride;
      const before = sum;
      sum += values[at]!;
      result[at] = exclusive ? before : sum;
    }
  }
  return [result];
};

function mapped<In, Out>(table: Record<string, In>, make: (entry: In) => Out): Record<string, Out> {
  return Object.fromEntries(Object.entries(table).map(([op, entry]) => [op, make(entry)]));
}

export const evaluators: Record<string, Evaluator> = {
  ...mapped(binary, (compute) => elementwise((a, b) => compute(a!, b!))),
  ...mapped(comparison, (test) => elementwise((a, b) => Number(test(a!, b!)))),
  ...mapped(unary, (compute) => elementwise((x) => compute(x!))),
  ...mapped(reductions, reduce),
  CumSum: cumSum,
  Max: elementwise(Math.max),
  Min: elementwise(Math.min),
  Mod: mod,
  Sum: elementwise((...values) => values.reduce((sum, x) => sum + x, 0)),
  Where: where,
};

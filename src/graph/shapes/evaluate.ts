/**
 * Computing small constants: the arithmetic on shapes, axes and masks that surrounds a model's real
 * work. Elements are doubles, rounded to the element type after each operator; integers beyond 2^53 are
 * left alone, except INT64_MAX and INT64_MIN, which mean "to the end" in a Slice.
 */
import type { Node, Tensor, ValueType } from '../ir.ts';
import { fromNumbers, numel, toNumbers } from '../tensor.ts';
import * as arithmetic from './evaluate-arithmetic.ts';
import * as layout from './evaluate-layout.ts';
import { Operands } from './operands.ts';

/** Node with constant inputs, types of its outputs → the elements of each output. */
export type Evaluator = (node: Operands, outputs: readonly ValueType[]) => number[][];

const constantOfShape: Evaluator = (node, [output]) => {
  const value = node.tensor('value');
  return [Array(numel(output!.shape)).fill(value === undefined ? 0 : toNumbers(value)[0]!)];
};

const range: Evaluator = (node, [output]) => {
  const [start, delta] = [node.values(0, 'start')[0]!, node.values(2, 'delta')[0]!];
  return [Array.from({ length: output!.shape[0]! }, (_, i) => start + i * delta)];
};

/** Operators that are not here stay in the graph. */
const evaluators: Record<string, Evaluator> = {
  ...arithmetic.evaluators,
  Cast: layout.unchanged,
  CastLike: layout.unchanged,
  Concat: layout.concat,
  ConstantOfShape: constantOfShape,
  Expand: layout.expand,
  Flatten: layout.unchanged,
  Gather: layout.gather,
  Identity: layout.unchanged,
  Range: range,
  Reshape: layout.unchanged,
  Slice: layout.slice,
  Split: layout.split,
  Squeeze: layout.unchanged,
  Tile: layout.tile,
  Transpose: layout.transpose,
  Trilu: layout.trilu,
  Unsqueeze: layout.unchanged,
};

/**
 * The node's outputs as constants, or undefined when an input is not constant, the operator is not one
 * that is computed here, or more than `maxElements` elements are involved.
 */
export function evaluate(
  node: Node,
  inputs: readonly (ValueType | undefined)[],
  outputs: readonly ValueType[],
  maxElements: number,
): Tensor[] | undefined {
  if (node.domain !== '' || !Object.hasOwn(evaluators, node.opType)) return undefined;
  for (const input of inputs) {
    if (input === undefined) continue;
    const { constant } = input;
    if (constant === undefined || numel(constant.dims) > maxElements || !isExact(constant)) {
      return undefined;
    }
  }
  const computable = ({ dtype, shape }: ValueType) =>
    dtype !== 'string' && numel(shape) <= maxElements;
  if (!outputs.every(computable)) return undefined;
  const results = evaluators[node.opType]!(new Operands(node, inputs), outputs);
  return results.map((values, i) => {
    const { dtype, shape } = outputs[i]!;
    return fromNumbers(dtype, shape, roundTo(dtype, values));
  });
}

/** Every element survives the way through a double. */
function isExact(tensor: Tensor): boolean {
  if (tensor.dtype === 'string') return false;
  if (tensor.dtype !== 'int64' && tensor.dtype !== 'uint64') return true;
  return toNumbers(tensor).every(
    (value) => Number.isSafeInteger(value) || Math.abs(value) === 2 ** 63,
  );
}

/** Division and Cast leave fractions that integers cut off; NaN and infinities have no integer. */
function roundTo(dtype: Tensor['dtype'], values: number[]): number[] {
  return dtype.includes('float') || dtype === 'bool' ? values : values.map(Math.trunc);
}

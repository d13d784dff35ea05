/** Operators that make values from shapes, attributes or nothing. */
import { DeepSpeedError } from '../../errors.ts';
import { dataTypeOf } from '../codec/types.ts';
import type { DataType, Tensor } from '../ir.ts';
import { fromNumbers, fromStrings, numel } from '../tensor.ts';
import type { Operands, ShapeRule } from './operands.ts';

/** The element type in an attribute such as `to`, or the fallback. */
export function dtypeAttribute(node: Operands, name: string, fallback: DataType): DataType {
  const number = node.int(name, 0);
  return number === 0 ? fallback : dataTypeOf(number, `${name} of node ${node.node.name}`);
}

const known = (constant: Tensor) => [{ dtype: constant.dtype, shape: constant.dims, constant }];

/** The tensor that a Constant node holds, in whichever attribute. */
export const constant: ShapeRule = (node) => {
  const { value, value_int, value_ints, value_float, value_floats, value_string, value_strings } =
    node.node.attributes;
  if (value?.type === 'tensor') return known(value.value);
  if (value_int?.type === 'int') return known(fromNumbers('int64', [], [value_int.value]));
  if (value_float?.type === 'float') return known(fromNumbers('float32', [], [value_float.value]));
  if (value_ints?.type === 'ints') {
    return known(fromNumbers('int64', [value_ints.value.length], value_ints.value));
  }
  if (value_floats?.type === 'floats') {
    return known(fromNumbers('float32', [value_floats.value.length], value_floats.value));
  }
  if (value_string?.type === 'string') return known(fromStrings([], [value_string.value]));
  if (value_strings?.type === 'strings') {
    return known(fromStrings([value_strings.value.length], value_strings.value));
  }
  throw new DeepSpeedError(
    'GRAPH_INVALID',
    `node ${node.node.name} (Constant) has no value; sparse ones are not supported`,
  );
};

/** The shape of the input, or of a range of its axes; constant whatever the input holds. */
export const shapeOf: ShapeRule = (node) => {
  const shape = node.shape(0);
  const clamp = (axis: number) =>
    Math.min(Math.max(axis < 0 ? axis + shape.length : axis, 0), shape.length);
  const part = shape.slice(clamp(node.int('start', 0)), clamp(node.int('end', shape.length)));
  return known(fromNumbers('int64', [part.length], part));
};

export const sizeOf: ShapeRule = (node) => known(fromNumbers('int64', [], [numel(node.shape(0))]));

export const constantOfShape: ShapeRule = (node) => [
  { dtype: node.tensor('value')?.dtype ?? 'float32', shape: node.values(0, 'shape') },
];

export const range: ShapeRule = (node) => {
  const [start, limit, delta] = [
    node.values(0, 'start')[0]!,
    node.values(1, 'limit')[0]!,
    node.values(2, 'delta')[0]!,
  ];
  node.require(delta !== 0, 'the step is 0');
  return [{ dtype: node.dtype(0), shape: [Math.max(0, Math.ceil((limit - start) / delta))] }];
};

export const eyeLike: ShapeRule = (node) => [
  { dtype: dtypeAttribute(node, 'dtype', node.dtype(0)), shape: node.shape(0) },
];

export const oneHot: ShapeRule = (node) => {
  const indices = node.shape(0);
  const depth = node.values(1, 'depth')[0]!;
  const axis = node.axis(node.int('axis', -1), indices.length + 1);
  return [{ dtype: node.dtype(2), shape: indices.toSpliced(axis, 0, depth) }];
};

export const cast: ShapeRule = (node) => {
  const to = dtypeAttribute(node, 'to', node.dtype(0));
  return [{ dtype: to, shape: node.shape(0) }];
};

export const castLike: ShapeRule = (node) => [{ dtype: node.dtype(1), shape: node.shape(0) }];

/** Random values in the shape of an input. */
export const randomLike: ShapeRule = eyeLike;

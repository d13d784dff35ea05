/** Gradients of operators that pick elements by index: a scatter that adds. */
import { intAttribute } from '../attributes.ts';
import { positiveAxis } from '../emitter.ts';
import { numel } from '../tensor.ts';
import type { GradientRule } from './rule.ts';
import { scatterRows } from './scatter.ts';

/** Rows of a matrix keep the form of rows, so that an embedding's buffer can take them directly. */
export const gather: GradientRule = (c) => {
  if (!c.needs(0)) return [undefined];
  const { emit, dY } = c;
  const shape = c.shape(0);
  const axis = positiveAxis(intAttribute(c.node, 'axis', 0), shape.length);
  const indices = emit.cast(c.input(1), 'int64');
  const count = numel(emit.shape(indices));
  const flat = emit.reshape(indices, [count]);
  if (axis === 0 && shape.length === 2) {
    return [{ rows: emit.reshape(dY, [count, shape[1]!]), indices: flat }];
  }
  // dY is [before.., indices.., after..]; with the indices in front each one adds a whole slice.
  const before = shape.slice(0, axis);
  const after = shape.slice(axis + 1);
  const merged = emit.reshape(dY, [numel(before), count, numel(after)]);
  const front = emit.reshape(emit.transpose(merged, [1, 0, 2]), [count, ...before, ...after]);
  const scattered = scatterRows(emit, front, flat, [shape[axis]!, ...before, ...after]);
  const back = [...before.map((_, i) => i + 1), 0, ...after.map((_, i) => i + 1 + before.length)];
  return [emit.transpose(scattered, back)];
};

export const gatherElements: GradientRule = (c) => {
  const { emit, dY } = c;
  const type = emit.type(c.input(0));
  const axis = intAttribute(c.node, 'axis', 0);
  const inputs = [emit.zeros(type.dtype, type.shape), c.input(1), dY];
  return [emit.one('ScatterElements', inputs, type, { axis, reduction: 'add' })];
};

export const gatherND: GradientRule = (c) => {
  if (intAttribute(c.node, 'batch_dims', 0) !== 0) throw c.refuse('batch_dims');
  const type = c.emit.type(c.input(0));
  const inputs = [c.emit.zeros(type.dtype, type.shape), c.input(1), c.dY];
  return [c.emit.one('ScatterND', inputs, type, { reduction: 'add' })];
};

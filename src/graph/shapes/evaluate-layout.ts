/** The elements of moved constants. */
import type { ValueType } from '../ir.ts';
import { numel } from '../tensor.ts';
import { broadcastStrides, positions, stridesOf } from './broadcast.ts';
import type { Evaluator } from './evaluate.ts';
import { sliceAxes } from './layout.ts';
import type { Operands } from './operands.ts';

const take = (values: readonly number[], from: readonly number[]) => from.map((at) => values[at]!);

/** Same elements in another shape or type. */
export const unchanged: Evaluator = (node) => [node.values(0, 'data')];

export const transpose: Evaluator = (node, [output]) => {
  const shape = node.shape(0);
  const strides = stridesOf(shape);
  const perm = node.ints('perm') ?? shape.map((_, i) => shape.length - 1 - i);
  const moved = perm.map((axis) => strides[axis]!);
  return [take(node.values(0, 'data'), positions(output!.shape, moved))];
};

export const expand: Evaluator = (node, [output]) => [
  take(
    node.values(0, 'data'),
    positions(output!.shape, broadcastStrides(node.shape(0), output!.shape)),
  ),
];

export const slice: Evaluator = (node, [output]) => {
  const strides = stridesOf(node.shape(0));
  let offset = 0;
  for (const { axis, start, step } of sliceAxes(node)) {
    offset += start * strides[axis]!;
    strides[axis]! *= step;
  }
  return [take(node.values(0, 'data'), positions(output!.shape, strides, offset))];
};

export const concat: Evaluator = (node, [output]) => {
  const axis = node.axis(node.int('axis', 1), node.shape(0).length);
  const strides = stridesOf(output!.shape);
  const result = Array<number>(numel(output!.shape)).fill(0);
  let start = 0;
  for (let i = 0; i < node.count; i++) {
    const values = node.values(i, 'data');
    const places = positions(node.shape(i), strides, start * strides[axis]!);
    for (const [k, place] of places.entries()) result[place] = values[k]!;
    start += node.shape(i)[axis]!;
  }
  return [result];
};

export const split: Evaluator = (node, outputs) => {
  const axis = node.axis(node.int('axis', 0), node.shape(0).length);
  const strides = stridesOf(node.shape(0));
  const values = node.values(0, 'data');
  let start = 0;
  return outputs.map(({ shape }) => {
    const from = positions(shape, strides, start * strides[axis]!);
    start += shape[axis]!;
    return take(values, from);
  });
};

export const gather: Evaluator = (node) => {
  const shape = node.shape(0);
  const axis = node.axis(node.int('axis', 0), shape.length);
  const size = shape[axis]!;
  const outer = numel(shape.slice(0, axis));
  const inner = numel(shape.slice(axis + 1));
  const values = node.values(0, 'data');
  const indices = node.values(1, 'indices').map((index) => wrap(node, index, size));
  const result: number[] = [];
  for (let block = 0; block < outer; block++) {
    for (const index of indices) {
      const start = (block * size + index) * inner;
      for (let i = 0; i < inner; i++) result.push(values[start + i]!);
    }
  }
  return [result];
};

export const tile: Evaluator = (node, [output]) => {
  const shape = node.shape(0);
  const strides = stridesOf(shape);
  const values = node.values(0, 'data');
  const outStrides = stridesOf(output!.shape);
  return [
    positions(output!.shape, outStrides).map((flat) => {
      const at = shape.reduce((sum, dim, axis) => {
        const index = Math.floor(flat / outStrides[axis]!) % output!.shape[axis]!;
        return sum + (index % dim) * strides[axis]!;
      }, 0);
      return values[at]!;
    }),
  ];
};

/** Keeps the upper (or lower) triangle of the last two axes, from diagonal k on. */
export const trilu: Evaluator = (node, [output]) => {
  const [rows, columns] = output!.shape.slice(-2) as [number, number];
  const k = node.optionalValues(1, 'diagonal')?.[0] ?? 0;
  const upper = node.int('upper', 1) !== 0;
  const values = node.values(0, 'data').map((value, flat) => {
    const row = Math.floor(flat / columns) % rows;
    const diagonal = (flat % columns) - row;
    return (upper ? diagonal >= k : diagonal <= k) ? value : 0;
  });
  return [values];
};

function wrap(node: Operands, index: number, size: number): number {
  node.require(index >= -size && index < size, `index ${index} does not exist in ${size} elements`);
  return index < 0 ? index + size : index;
}

/** The constant's elements read in the shape of an output, broadcast. */
export function broadcastValues(node: Operands, index: number, output: ValueType): number[] {
  const from = node.shape(index);
  const values = node.values(index, 'data');
  if (from.join() === output.shape.join()) return values;
  return take(values, positions(output.shape, broadcastStrides(from, output.shape)));
}

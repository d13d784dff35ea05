/** Operators that move elements: their shapes often come from small constant inputs. */
import type { LayoutOperator } from '../operators.ts';
import { numel } from '../tensor.ts';
import { broadcast } from './broadcast.ts';
import { likeFirst } from './elementwise.ts';
import type { Operands, ShapeRule } from './operands.ts';

const one = (node: Operands, shape: readonly number[]) => [{ dtype: node.dtype(0), shape }];

/** 0 copies the input's dimension (unless allowzero), -1 takes what is left. */
const reshape: ShapeRule = (node) => {
  const from = node.shape(0);
  const target = node.ints('shape') ?? node.values(1, 'shape');
  const copyZero = node.int('allowzero', 0) === 0;
  const shape = target.map((dim, i) => {
    if (dim !== 0 || !copyZero) return dim;
    if (i >= from.length)
      throw node.mismatch(`shape [${target}] copies axis ${i}, which is not there`);
    return from[i]!;
  });
  const free = shape.indexOf(-1);
  const total = numel(from);
  if (free >= 0) {
    const others = numel(shape.filter((_, i) => i !== free));
    shape[free] = others === 0 ? 0 : total / others;
  }
  const fits = shape.every((dim) => Number.isInteger(dim) && dim >= 0) && numel(shape) === total;
  node.require(fits, `${total} elements do not fill the shape [${target.join(', ')}]`);
  return one(node, shape);
};

const transpose: ShapeRule = (node) => {
  const shape = node.shape(0);
  const perm = node.ints('perm') ?? shape.map((_, i) => shape.length - 1 - i);
  const sorted = [...perm].sort((a, b) => a - b);
  node.require(
    perm.length === shape.length && sorted.every((axis, i) => axis === i),
    `perm [${perm.join(', ')}] is not a permutation of its axes`,
  );
  return one(
    node,
    perm.map((axis) => shape[axis]!),
  );
};

const squeeze: ShapeRule = (node) => {
  const shape = node.shape(0);
  const axes = node.axes(1)?.map((axis) => node.axis(axis, shape.length));
  const drop = axes ?? shape.flatMap((dim, axis) => (dim === 1 ? [axis] : []));
  for (const axis of drop) {
    node.require(
      shape[axis] === 1,
      `axis ${axis} has ${shape[axis]} elements and cannot be squeezed`,
    );
  }
  return one(
    node,
    shape.filter((_, axis) => !drop.includes(axis)),
  );
};

const unsqueeze: ShapeRule = (node) => {
  const axes = node.axes(1);
  if (axes === undefined) throw node.mismatch('it has no axes');
  const rank = node.shape(0).length + axes.length;
  const at = new Set(axes.map((axis) => node.axis(axis, rank)));
  node.require(at.size === axes.length, `axes [${axes.join(', ')}] repeat`);
  const rest = node.shape(0).values();
  return one(
    node,
    Array.from({ length: rank }, (_, axis) => (at.has(axis) ? 1 : rest.next().value!)),
  );
};

const expand: ShapeRule = (node) => {
  const target = node.values(1, 'shape');
  const shape = broadcast(node.shape(0), target);
  if (shape === undefined) throw node.mismatch(`it does not expand to [${target.join(', ')}]`);
  return one(node, shape);
};

const flatten: ShapeRule = (node) => {
  const shape = node.shape(0);
  const axis = node.int('axis', 1);
  const split = axis === shape.length ? axis : node.axis(axis, shape.length);
  return one(node, [numel(shape.slice(0, split)), numel(shape.slice(split))]);
};

const concat: ShapeRule = (node) => {
  const first = node.shape(0);
  const axis = node.axis(node.int('axis', 1), first.length);
  const shape = [...first];
  for (const { shape: next, dtype } of node.present().slice(1)) {
    const fits =
      next.length === first.length && next.every((dim, i) => i === axis || dim === first[i]);
    node.require(fits, `the inputs differ outside axis ${axis}`);
    node.require(dtype === node.dtype(0), 'the inputs differ in element type');
    shape[axis]! += next[axis]!;
  }
  return one(node, shape);
};

/** Sizes from attribute or input, or equal parts of which the last may be smaller. */
const split: ShapeRule = (node) => {
  const shape = node.shape(0);
  const axis = node.axis(node.int('axis', 0), shape.length);
  const size = shape[axis]!;
  const parts = node.int('num_outputs', node.node.outputs.length);
  const part = Math.ceil(size / parts);
  const sizes =
    node.ints('split') ??
    node.optionalValues(1, 'split sizes') ??
    Array.from({ length: parts }, (_, i) => Math.max(0, Math.min(part, size - i * part)));
  const total = sizes.reduce((sum, each) => sum + each, 0);
  node.require(total === size, `parts [${sizes.join(', ')}] do not add up to ${size}`);
  return sizes.map((each) => ({ dtype: node.dtype(0), shape: shape.with(axis, each) }));
};

/** One axis of a Slice: the first index taken, the step, and how many are taken. */
export interface SliceAxis {
  axis: number;
  start: number;
  step: number;
  count: number;
}

/** The slice that a node asks for, out-of-range ends clamped as ONNX says. */
export function sliceAxes(node: Operands): SliceAxis[] {
  const shape = node.shape(0);
  const starts = node.ints('starts') ?? node.values(1, 'starts');
  const ends = node.ints('ends') ?? node.values(2, 'ends');
  const axes = node.axes(3) ?? starts.map((_, i) => i);
  const steps = node.optionalValues(4, 'steps') ?? starts.map(() => 1);
  node.require(
    ends.length === starts.length &&
      axes.length === starts.length &&
      steps.length === starts.length,
    'starts, ends, axes and steps differ in length',
  );
  return starts.map((rawStart, i) => {
    const axis = node.axis(axes[i]!, shape.length);
    const step = steps[i]!;
    node.require(step !== 0, 'a step is 0');
    const dim = shape[axis]!;
    const fromFront = (index: number) => (index < 0 ? index + dim : index);
    const clamp = (index: number, low: number, high: number) =>
      Math.min(Math.max(index, low), high);
    const start =
      step > 0 ? clamp(fromFront(rawStart), 0, dim) : clamp(fromFront(rawStart), 0, dim - 1);
    const end =
      step > 0 ? clamp(fromFront(ends[i]!), 0, dim) : clamp(fromFront(ends[i]!), -1, dim - 1);
    return { axis, start, step, count: Math.max(0, Math.ceil((end - start) / step)) };
  });
}

const slice: ShapeRule = (node) => {
  const shape = [...node.shape(0)];
  for (const { axis, count } of sliceAxes(node)) shape[axis] = count;
  return one(node, shape);
};

const gather: ShapeRule = (node) => {
  const shape = node.shape(0);
  const axis = node.axis(node.int('axis', 0), shape.length);
  return one(node, [...shape.slice(0, axis), ...node.shape(1), ...shape.slice(axis + 1)]);
};

const gatherElements: ShapeRule = (node) => one(node, node.shape(1));

const gatherND: ShapeRule = (node) => {
  const indices = node.shape(1);
  const batch = node.int('batch_dims', 0);
  const depth = indices.at(-1) ?? 0;
  node.require(
    indices.length > batch && batch + depth <= node.shape(0).length,
    'the indices are deeper than the data',
  );
  return one(node, [...indices.slice(0, -1), ...node.shape(0).slice(batch + depth)]);
};

/** Pads: begins of all axes, then ends; negative ones crop. */
const pad: ShapeRule = (node) => {
  const shape = [...node.shape(0)];
  const pads = node.ints('pads') ?? node.values(1, 'pads');
  const axes = node.optionalValues(3, 'axes') ?? shape.map((_, i) => i);
  node.require(pads.length === 2 * axes.length, `${pads.length} pads for ${axes.length} axes`);
  for (const [i, raw] of axes.entries()) {
    shape[node.axis(raw, shape.length)]! += pads[i]! + pads[axes.length + i]!;
  }
  node.require(
    shape.every((dim) => dim >= 0),
    'the pads crop more than there is',
  );
  return one(node, shape);
};

const tile: ShapeRule = (node) => {
  const repeats = node.values(1, 'repeats');
  node.require(repeats.length === node.shape(0).length, 'repeats and dimensions differ in number');
  return one(
    node,
    node.shape(0).map((dim, i) => dim * repeats[i]!),
  );
};

export const layoutRules: Record<LayoutOperator, ShapeRule> = {
  Concat: concat,
  Expand: expand,
  Flatten: flatten,
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: gatherND,
  Identity: likeFirst,
  Pad: pad,
  Reshape: reshape,
  ScatterElements: likeFirst,
  ScatterND: likeFirst,
  Slice: slice,
  Split: split,
  Squeeze: squeeze,
  Tile: tile,
  Transpose: transpose,
  Trilu: likeFirst,
  Unsqueeze: unsqueeze,
};

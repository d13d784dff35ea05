/** Gradients of operators that move elements without computing. */
import { intAttribute, intsAttribute, stringAttribute } from '../attributes.ts';
import { positiveAxis } from '../emitter.ts';
import type { GradientRule, RuleContext } from './rule.ts';

/** Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the old shape. */
export const reshape: GradientRule = (c) => [c.emit.reshape(c.dY, c.shape(0))];

export const transpose: GradientRule = (c) => {
  const rank = c.shape(0).length;
  const reversed = Array.from({ length: rank }, (_, i) => rank - 1 - i);
  const perm = intsAttribute(c.node, 'perm') ?? reversed;
  const inverse: number[] = new Array(rank);
  perm.forEach((axis, i) => {
    inverse[axis] = i;
  });
  return [c.emit.transpose(c.dY, inverse)];
};

/** The stretched axes are summed by the walk. */
export const expand: GradientRule = (c) => [c.dY];

export const concat: GradientRule = (c) => {
  const { emit, dY, node } = c;
  const axis = positiveAxis(intAttribute(node, 'axis', 0), emit.shape(dY).length);
  if (node.inputs.length === 1) return [dY];
  return emit.split(
    dY,
    axis,
    node.inputs.map((input) => emit.shape(input)[axis]!),
  );
};

/** Parts that nothing was done with contribute zeros. */
export const split: GradientRule = (c) => {
  const { emit, node } = c;
  const axis = positiveAxis(intAttribute(node, 'axis', 0), c.shape(0).length);
  const parts = node.outputs.map((output, i) => {
    const type = emit.type(output);
    return c.gradient(i) ?? emit.zeros(type.dtype, type.shape);
  });
  return [parts.length === 1 ? parts[0] : emit.concat(parts, axis)];
};

export const slice: GradientRule = (c) => {
  const { emit } = c;
  const shape = c.shape(0);
  let gradient = c.dY;
  for (const { axis, start, step } of sliceRanges(c)) {
    const length = emit.shape(gradient)[axis]!;
    const total = shape[axis]!;
    if (step === 1) {
      const before = shape.map((_, i) => (i === axis ? start : 0));
      const after = shape.map((_, i) => (i === axis ? total - start - length : 0));
      gradient = emit.pad(gradient, before, after);
    } else {
      const picked = Array.from({ length }, (_, i) => start + i * step);
      gradient = scatterAlong(c, gradient, axis, total, picked);
    }
  }
  return [gradient];
};

interface SliceRange {
  axis: number;
  start: number;
  step: number;
}

/** Each sliced axis with the position of its first element. */
function sliceRanges(c: RuleContext): SliceRange[] {
  const shape = c.shape(0);
  const starts = c.numbers(1) ?? [...(intsAttribute(c.node, 'starts') ?? [])];
  const axes = c.numbers(3) ?? intsAttribute(c.node, 'axes') ?? starts.map((_, i) => i);
  const steps = c.numbers(4) ?? starts.map(() => 1);
  return starts.map((start, i) => {
    const axis = positiveAxis(axes[i]!, shape.length);
    const dim = shape[axis]!;
    const step = steps[i]!;
    const counted = start < 0 ? start + dim : start;
    const last = step > 0 ? dim : dim - 1;
    return { axis, step, start: Math.max(0, Math.min(counted, last)) };
  });
}

/** Zeros with the slices of `values` along `axis` put at the given positions. */
function scatterAlong(
  c: RuleContext,
  values: string,
  axis: number,
  total: number,
  positions: readonly number[],
): string {
  const { emit } = c;
  const shape = emit.shape(values);
  const full = shape.map((dim, i) => (i === axis ? total : dim));
  const column = emit.constant(
    'int64',
    shape.map((_, i) => (i === axis ? positions.length : 1)),
    positions,
  );
  const zeros = emit.zeros(emit.dtype(values), full);
  const inputs = [zeros, emit.expand(column, shape), values];
  return emit.one('ScatterElements', inputs, { dtype: emit.dtype(values), shape: full }, { axis });
}

export const pad: GradientRule = (c) => {
  const { emit } = c;
  const mode = stringAttribute(c.node, 'mode', 'constant');
  if (mode !== 'constant') throw c.refuse(`mode ${mode}`);
  const shape = c.shape(0);
  const pads = c.numbers(1) ?? [...(intsAttribute(c.node, 'pads') ?? [])];
  const axes = (c.numbers(3) ?? shape.map((_, i) => i)).map((a) => positiveAxis(a, shape.length));
  if (pads.some((count) => count < 0)) throw c.refuse('negative pads');
  let gradient = c.dY;
  axes.forEach((axis, i) => {
    if (emit.shape(gradient)[axis] === shape[axis]) return;
    gradient = emit.slice(gradient, axis, pads[i]!, pads[i]! + shape[axis]!);
  });
  return [gradient];
};

/** A triangle of the gradient, the same one. */
export const trilu: GradientRule = (c) => {
  const upper = intAttribute(c.node, 'upper', 1);
  const inputs = [c.dY, c.has(1) ? c.input(1) : undefined];
  return [c.emit.one('Trilu', inputs, c.emit.type(c.dY), { upper })];
};

/** Broadcasting as ONNX and numpy do it: shapes align at their last axes, 1 stretches. */

/** The common shape, or undefined when two dimensions differ and neither is 1. */
export function broadcast(...shapes: readonly (readonly number[])[]): number[] | undefined {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  const result = Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (const [i, dim] of shape.entries()) {
      const at = rank - shape.length + i;
      if (result[at] === 1) result[at] = dim;
      else if (dim !== 1 && dim !== result[at]) return undefined;
    }
  }
  return result;
}

/** Elements to step over per index of each axis, row-major. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = Array<number>(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    strides[axis] = strides[axis + 1]! * shape[axis + 1]!;
  }
  return strides;
}

/** Strides that read a tensor of shape `from` as if it were stretched to `to`: 0 where it repeats. */
export function broadcastStrides(from: readonly number[], to: readonly number[]): number[] {
  const strides = stridesOf(from);
  const lead = to.length - from.length;
  return to.map((_, i) => (i < lead || from[i - lead] === 1 ? 0 : strides[i - lead]!));
}

/**
 * offset + Σ index·stride for every index of `shape`, row-major: where each element of an output comes
 * from when the operator is a broadcast, a transpose or a slice.
 */
export function positions(
  shape: readonly number[],
  strides: readonly number[],
  offset = 0,
): number[] {
  // A mask has an element for every two tokens: one array, filled from its first axis on.
  const all = new Array<number>(shape.reduce((product, dim) => product * dim, 1)).fill(offset);
  if (all.length === 0) return all;
  let known = 1;
  for (const [axis, dim] of shape.entries()) {
    const stride = strides[axis]!;
    for (let start = known - 1; start >= 0; start -= 1) {
      const from = all[start]!;
      for (let i = dim - 1; i >= 0; i -= 1) all[start * dim + i] = from + i * stride;
    }
    known *= dim;
  }
  return all;
}

/** Rotary position embedding on the halves of the last axis, x [B, H, S, D]. */
import { intAttribute } from '../../attributes.ts';
import { positiveAxis, sameShape } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion, GraphView, Replacement } from './pattern.ts';

/** The kernel takes tables [S, D/2]; `table` is one if it has only ones before its last two axes. */
function asTable(view: GraphView, table: string, width: number): readonly number[] | undefined {
  const shape = view.shape(table);
  if (shape.length < 2 || shape.at(-1) !== width) return undefined;
  return shape.slice(0, -2).every((dim) => dim === 1) ? shape : undefined;
}

function rotation(
  view: GraphView,
  x: string,
  tables: readonly [cos: string, sin: string],
): Replacement | undefined {
  const shape = view.shape(x);
  if (shape.length !== 4) return undefined;
  const [, , length, width] = shape as [number, number, number, number];
  const half = width / 2;
  const widths = tables.map((table) => view.shape(table).at(-1)!);
  if (widths.some((found) => found !== widths[0])) return undefined;
  for (const table of tables) {
    if (asTable(view, table, widths[0]!)?.at(-2) !== length) return undefined;
  }
  // A table of width D must hold the same D/2 columns twice.
  if (widths[0] === width && !tables.every((table) => repeatsHalves(view, table))) return undefined;
  return () => {
    const { emit } = view;
    const [cos, sin] = tables.map((table) => {
      const flat = emit.reshape(table, [length, widths[0]!]);
      return widths[0] === half ? flat : emit.slice(flat, 1, 0, half);
    });
    return [emit.one('RotaryEmbedding', [x, cos, sin], view.type(x), {}, 'deepspeed')];
  };
}

/** Concat(x1·cos − x2·sin, x2·cos + x1·sin) of the halves x1, x2 of x. */
export const rotatedHalves: Fusion = {
  name: 'rotation of halves → deepspeed.RotaryEmbedding',
  match(node, view) {
    if (operatorKey(node) !== 'Concat' || node.inputs.length !== 2) return undefined;
    if (!isLastAxis(node, view)) return undefined;
    const [first, second] = node.inputs;
    const difference = view.from(first, 'Sub');
    const sum = view.from(second, 'Add');
    const minuend = view.from(difference?.inputs[0], 'Mul');
    const subtrahend = view.from(difference?.inputs[1], 'Mul');
    if (!minuend || !subtrahend || !sum) return undefined;
    for (const [x1, cos] of view.orders(minuend)) {
      for (const [x2, sin] of view.orders(subtrahend)) {
        const x = wholeOf(view, x1, x2);
        if (x === undefined || !isSum(view, sum, [x2, cos], [x1, sin])) continue;
        const result = rotation(view, x, [cos, sin]);
        if (result !== undefined) return result;
      }
    }
    return undefined;
  },
};

/** x·cos + rotateHalf(x)·sin with rotateHalf(x) = Concat(−x2, x1), as transformers exports it. */
export const rotateHalf: Fusion = {
  name: 'x · cos + rotate_half(x) · sin → deepspeed.RotaryEmbedding',
  match(node, view) {
    if (operatorKey(node) !== 'Add') return undefined;
    for (const [left, right] of view.orders(node)) {
      const [plain, turned] = [view.from(left, 'Mul'), view.from(right, 'Mul')];
      if (!plain || !turned) continue;
      for (const [half, sin] of view.orders(turned)) {
        const x = rotatedSource(view, half);
        const cos = plain.inputs.find((input) => input !== x);
        if (x === undefined || cos === undefined || !plain.inputs.includes(x)) continue;
        const result = rotation(view, x, [cos, sin]);
        if (result !== undefined) return result;
      }
    }
    return undefined;
  },
};

/** x of Concat(−x2, x1). */
function rotatedSource(view: GraphView, value: string): string | undefined {
  const joined = view.from(value, 'Concat');
  if (joined === undefined || joined.inputs.length !== 2 || !isLastAxis(joined, view))
    return undefined;
  const negated = view.from(joined.inputs[0], 'Neg');
  return negated && wholeOf(view, joined.inputs[1]!, negated.inputs[0]!);
}

function isLastAxis(node: Node, view: GraphView): boolean {
  const rank = view.shape(node.inputs[0]!).length;
  return positiveAxis(intAttribute(node, 'axis', 0), rank) === rank - 1;
}

function isSum(view: GraphView, sum: Node, first: string[], second: string[]): boolean {
  const isProduct = (value: string, factors: string[]) => {
    const node = view.from(value, 'Mul');
    return node !== undefined && view.orders(node).some((order) => sameNames(order, factors));
  };
  return view.orders(sum).some(([a, b]) => isProduct(a, first) && isProduct(b, second));
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.every((name, i) => name === b[i]);
}

/** The value whose first half is x1 and second half x2, cut by a Split or by two Slices. */
function wholeOf(view: GraphView, x1: string, x2: string): string | undefined {
  const split = view.from(x1, 'Split');
  if (split !== undefined) {
    const [first, second] = split.outputs;
    const equal = sameShape(view.shape(x1), view.shape(x2));
    const isHalves = first === x1 && second === x2 && split.outputs.length === 2 && equal;
    return isHalves && isLastAxis(split, view) ? split.inputs[0] : undefined;
  }
  const [left, right] = [sliceOf(view, x1), sliceOf(view, x2)];
  if (left === undefined || right === undefined || left.x !== right.x) return undefined;
  const half = view.shape(left.x).at(-1)! / 2;
  return left.start === 0 && right.start === half && left.size === half && right.size === half
    ? left.x
    : undefined;
}

/** A Slice with step 1 of the last axis alone. */
function sliceOf(
  view: GraphView,
  value: string,
): { x: string; start: number; size: number } | undefined {
  const node = view.from(value, 'Slice');
  if (node === undefined) return undefined;
  const x = node.inputs[0]!;
  const shape = view.shape(x);
  const [starts, axes, steps] = [1, 3, 4].map((i) => view.numbers(node.inputs[i] || undefined));
  if (starts?.length !== 1 || (steps?.[0] ?? 1) !== 1) return undefined;
  if (positiveAxis(axes?.[0] ?? 0, shape.length) !== shape.length - 1) return undefined;
  return { x, start: positiveAxis(starts[0]!, shape.at(-1)!), size: view.shape(value).at(-1)! };
}

/** Operators that keep equal halves equal: one element or one earlier axis at a time. */
const halfwise = new Set(['Cos', 'Sin', 'Cast', 'Identity', 'Unsqueeze', 'Squeeze', 'Reshape']);

/** Is the second half of the last axis known to equal the first? */
function repeatsHalves(view: GraphView, value: string): boolean {
  const node = view.from(value);
  const constant = view.numbers(value);
  if (constant !== undefined) {
    const width = view.shape(value).at(-1)!;
    const half = width / 2;
    return constant.every((number, i) => i % width < half || number === constant[i - half]);
  }
  if (node === undefined) return false;
  const key = operatorKey(node);
  if (key === 'Concat') return isLastAxis(node, view) && node.inputs[0] === node.inputs[1];
  const keepsWidth = view.shape(node.inputs[0]!).at(-1) === view.shape(value).at(-1);
  if (halfwise.has(key)) return keepsWidth && repeatsHalves(view, node.inputs[0]!);
  if (key === 'Gather')
    return intAttribute(node, 'axis', 0) === 0 && repeatsHalves(view, node.inputs[0]!);
  if (key !== 'Mul') return false;
  const scaled = view.withScalar(node);
  return scaled !== undefined && repeatsHalves(view, scaled.other);
}

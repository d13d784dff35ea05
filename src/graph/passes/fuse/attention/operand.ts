/**
 * From a factor of an attention product back to where its heads come from: through scalings, rotations,
 * transpositions and repeated key heads, so that the operator can read the projection as it is.
 */
import { intAttribute, intsAttribute } from '../../../attributes.ts';
import { positiveAxis, sameShape } from '../../../emitter.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import { numel } from '../../../tensor.ts';
import type { GraphView } from '../pattern.ts';

/** Axes of a value by letter, in its order: b batch, h head, s position, d element of a head. */
export type Axes = string;

export interface Operand {
  value: string;
  axes: Axes;
  /** Its own heads: fewer than the queries' when keys are shared. */
  heads: number;
  /** It was multiplied by this. */
  factor: number;
  rotation: { cos: string; sin: string } | undefined;
}

export interface TraceOptions {
  heads: number;
  /** Also through a rotation, which the operator then does. */
  rotated: boolean;
}

/** `axes` says what the axes of `value` are: bhsd, bhds, bsd (one head) or bds. */
export function trace(
  view: GraphView,
  value: string,
  axes: Axes,
  { heads, rotated }: TraceOptions,
): Operand {
  const found: Operand = { value, axes, heads, factor: 1, rotation: undefined };
  for (let node = view.from(value); node !== undefined; node = view.from(found.value)) {
    if (!step(view, node, found, rotated)) break;
  }
  return found;
}

/** Queries, keys and values, and the rotation that queries and keys share. */
export interface Operands {
  q: Operand;
  k: Operand;
  v: Operand;
  rotation: Operand['rotation'];
}

/**
 * Traced through the rotations of queries and keys where both are turned alike, by tables that are not
 * trained; else up to them.
 */
export function sameRotation(
  view: GraphView,
  sameLength: boolean,
  traced: (rotated: boolean) => Omit<Operands, 'rotation'>,
): Operands {
  const turned = traced(true);
  const { cos, sin } = turned.q.rotation ?? {};
  const alike = cos === turned.k.rotation?.cos && sin === turned.k.rotation?.sin;
  const trained = [cos, sin].some((table) => table !== undefined && view.needsGradient(table));
  if (alike && sameLength && !trained) return { ...turned, rotation: turned.q.rotation };
  return { ...traced(false), rotation: undefined };
}

/** Moves to the node's input; false when the walk ends here. */
function step(view: GraphView, node: Node, at: Operand, rotated: boolean): boolean {
  const key = operatorKey(node);
  switch (key) {
    case 'Mul':
    case 'Div': {
      const scaled = view.withScalar(node);
      if (scaled === undefined || (key === 'Div' && scaled.other !== node.inputs[0])) return false;
      if (view.shape(scaled.other).length !== at.axes.length) return false;
      at.factor *= key === 'Mul' ? scaled.number : 1 / scaled.number;
      at.value = scaled.other;
      return true;
    }
    case 'Transpose': {
      const perm =
        intsAttribute(node, 'perm') ?? [...at.axes].map((_, i, all) => all.length - 1 - i);
      const axes = [...at.axes];
      perm.forEach((axis, i) => {
        axes[axis] = at.axes[i]!;
      });
      at.axes = axes.join('');
      at.value = node.inputs[0]!;
      return true;
    }
    case 'deepspeed.RotaryEmbedding': {
      const [x, cos, sin] = node.inputs as [string, string, string];
      if (!rotated || at.axes !== 'bhsd' || at.rotation || intAttribute(node, 'inverse', 0)) {
        return false;
      }
      at.rotation = { cos, sin };
      at.value = x;
      return true;
    }
    case 'Identity':
      at.value = node.inputs[0]!;
      return true;
    case 'Reshape':
      return unrepeat(view, node, at);
    default:
      return false;
  }
}

/** [.., K, 1, ..] stretched to [.., K, G, ..] and merged to [.., K·G, ..]: heads of keys, repeated. */
function unrepeat(view: GraphView, node: Node, at: Operand): boolean {
  const stretched = view.from(node.inputs[0], 'Expand', 'Tile');
  if (stretched === undefined) return false;
  const apart = view.shape(stretched.inputs[0]!);
  const wide = view.shape(stretched.outputs[0]!);
  const merged = view.shape(node.outputs[0]!);
  const axis = at.axes.indexOf('h');
  if (wide.length !== at.axes.length + 1 || axis < 0) return false;
  const groups = wide[axis + 1]!;
  const isRepeat =
    sameShape(apart, wide.with(axis + 1, 1)) &&
    sameShape(merged, [...wide.slice(0, axis), wide[axis]! * groups, ...wide.slice(axis + 2)]);
  if (!isRepeat) return false;
  const single = view.from(stretched.inputs[0], 'Unsqueeze', 'Reshape');
  const source = single?.inputs[0];
  const plain = [...apart.slice(0, axis + 1), ...apart.slice(axis + 2)];
  if (source === undefined || !sameShape(view.shape(source), plain)) return false;
  at.value = source;
  at.heads = wide[axis]!;
  return true;
}

/** Are the operand's elements those of rows [B, S, heads · width]? */
export function isRows({ axes }: Operand): boolean {
  return axes === 'bshd' || axes === 'bsd';
}

/** The operand as rows: what was split into heads, or a view. */
export function rowsOf(view: GraphView, { value }: Operand): string {
  const shape = view.shape(value);
  const rows = [shape[0]!, shape[1]!, numel(shape.slice(2))];
  const source = view.from(value, 'Reshape', 'Unsqueeze')?.inputs[0];
  if (source !== undefined && sameShape(view.shape(source), rows)) return source;
  return view.emit.reshape(value, rows);
}

/** The operand as [B, H, S, D]. */
export function headsFirst(view: GraphView, { value, axes }: Operand): string {
  const perm = [...'bhsd'].flatMap((axis) => {
    const place = axes.indexOf(axis);
    return place < 0 ? [] : [place];
  });
  const moved = view.emit.transpose(value, perm);
  if (perm.length === 4) return moved;
  const [batch, length, width] = view.emit.shape(moved) as [number, number, number];
  return view.emit.reshape(moved, [batch, 1, length, width]);
}

/** A part of the last axis of a value. */
interface Part {
  source: string;
  start: number;
  size: number;
}

/** x of rows that are q, k and v of x, side by side: x [B, S, (H + 2·K)·D]. */
export function packedSource(view: GraphView, rows: readonly string[]): string | undefined {
  const parts = rows.map((row) => partOf(view, row));
  let at = 0;
  for (const part of parts) {
    if (part === undefined || part.source !== parts[0]!.source || part.start !== at)
      return undefined;
    at += part.size;
  }
  const { source } = parts[0]!;
  return view.shape(source).length === 3 && view.shape(source)[2] === at ? source : undefined;
}

/** The stretch of a last axis that a value was cut from, by Split or Slice. */
function partOf(view: GraphView, value: string): Part | undefined {
  const node = view.from(value, 'Split', 'Slice');
  if (node === undefined) return undefined;
  const source = node.inputs[0]!;
  const rank = view.shape(source).length;
  const size = view.shape(value).at(-1)!;
  if (node.opType === 'Split') {
    if (positiveAxis(intAttribute(node, 'axis', 0), rank) !== rank - 1) return undefined;
    const before = node.outputs.slice(0, node.outputs.indexOf(value));
    const start = before.reduce((total, part) => total + view.shape(part).at(-1)!, 0);
    return { source, start, size };
  }
  const [starts, axes, steps] = [1, 3, 4].map((i) => view.numbers(node.inputs[i] || undefined));
  if (starts?.length !== 1 || (steps?.[0] ?? 1) !== 1) return undefined;
  if (positiveAxis(axes?.[0] ?? 0, rank) !== rank - 1) return undefined;
  return { source, start: positiveAxis(starts[0]!, view.shape(source).at(-1)!), size };
}

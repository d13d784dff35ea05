/** Emitting deepspeed.Attention for what was found. */
import { floatAttribute, intAttribute, type PlainAttribute } from '../../../attributes.ts';
import type { AttentionLayout } from '../../../attention-dims.ts';
import type { Node } from '../../../ir.ts';
import { numel } from '../../../tensor.ts';
import type { GraphView, Match } from '../pattern.ts';
import type { Condition, Mask } from './mask.ts';
import { headsFirst, isRows, type Operand, packedSource, rowsOf } from './operand.ts';

export interface FoundAttention {
  batch: number;
  heads: number;
  kvHeads: number;
  length: number;
  keys: number;
  /** Elements of a head. */
  width: number;
  q: Operand;
  k: Operand;
  v: Operand;
  /** All three in one value, side by side in each row; `q`, `k` and `v` then only say how they lie. */
  packed?: string;
  /** [(heads + 2 · kvHeads) · D]: added to the rows of queries, keys and values. */
  added?: string;
  /** Tables of at least `length` rows. */
  rotation: Operand['rotation'];
  scale: number;
  mask: Mask;
  dropout: Node | undefined;
}

/** Finite, as a model's own masks are: a row that is hidden as a whole is uniform, not NaN. */
const lowest = -3.4028234663852886e38;

/**
 * @param shape of the value to make
 * @param rowsLast it is [B, S, H, D], else [B, H, S, D] in some shape
 */
export function emitAttention(
  view: GraphView,
  found: FoundAttention,
  shape: readonly number[],
  rowsLast: boolean,
): Match {
  const { q, k, v, mask } = found;
  const rows = [q, k, v].every(isRows);
  const packed =
    found.packed ??
    (rows && found.added === undefined
      ? packedSource(
          view,
          [q, k, v].map((part) => sourceRows(view, part)),
        )
      : undefined);
  const layout: AttentionLayout = packed !== undefined ? 'packed' : rows ? 'bshd' : 'bhsd';
  const said = [
    layout,
    ...(found.kvHeads === found.heads ? [] : ['grouped heads']),
    ...(mask.causal ? ['causal'] : []),
    ...(mask.keys.length > 0 ? ['key mask'] : []),
    ...(mask.bias.length + mask.visible.length > 0 ? ['bias'] : []),
    ...(found.rotation ? ['rotary'] : []),
    ...(found.dropout ? ['dropout'] : []),
  ];
  const make = () => {
    const { emit } = view;
    const operands =
      packed !== undefined
        ? [packed, undefined, undefined]
        : [q, k, v].map((part) => (rows ? rowsOf(view, part) : headsFirst(view, part)));
    if (found.added !== undefined) addTo(view, operands as string[], found.added);
    const { width } = found;
    const dtype = view.type(q.value).dtype;
    const y = rows
      ? [found.batch, found.length, found.heads * width]
      : [found.batch, found.heads, found.length, width];
    const lse = [found.batch, found.heads, found.length];
    const [output] = emit.node(
      'Attention',
      withoutTrailing([...operands, ...options(view, found)]),
      [
        { dtype, shape: y },
        { dtype, shape: lse },
      ],
      attributes(found, layout),
      'deepspeed',
    ) as [string];
    const scaled = emit.scale(output, v.factor);
    if (rows === rowsLast || found.heads === 1) return [emit.reshape(scaled, shape)];
    const heads = rows
      ? emit.reshape(scaled, [found.batch, found.length, found.heads, width])
      : scaled;
    return [emit.reshape(emit.transpose(heads, [0, 2, 1, 3]), shape)];
  };
  return { name: `attention → deepspeed.Attention (${said.join(', ')})`, make };
}

/** Adds stretches of one vector to rows. */
function addTo(view: GraphView, rows: string[], vector: string): void {
  const { emit } = view;
  let at = 0;
  for (const [i, value] of rows.entries()) {
    const size = emit.shape(value).at(-1)!;
    rows[i] = emit.add(value, emit.slice(vector, 0, at, at + size));
    at += size;
  }
}

/** What an operand's rows were split from, without emitting anything. */
function sourceRows(view: GraphView, { value }: Operand): string {
  const source = view.from(value, 'Reshape', 'Unsqueeze')?.inputs[0];
  return source !== undefined && view.shape(source).length === 3 ? source : value;
}

function attributes(
  { heads, kvHeads, scale, mask, dropout }: FoundAttention,
  layout: AttentionLayout,
): Record<string, PlainAttribute> {
  return {
    layout,
    heads,
    kv_heads: kvHeads,
    scale,
    causal: mask.causal ? 1 : 0,
    ...(dropout && {
      ratio: floatAttribute(dropout, 'ratio', 0.5),
      stream: intAttribute(dropout, 'stream', 0),
    }),
  };
}

/** bias, keyMask, cos, sin, rng, training */
function options(view: GraphView, found: FoundAttention): (string | undefined)[] {
  const { rotation, dropout, length } = found;
  const rowsOfTable = (table: string | undefined) =>
    table && (view.shape(table)[0] === length ? table : view.emit.slice(table, 0, 0, length));
  return [
    bias(view, found),
    keyMask(view, found),
    rowsOfTable(rotation?.cos),
    rowsOfTable(rotation?.sin),
    dropout?.inputs[1],
    dropout?.inputs[2],
  ];
}

function bias(view: GraphView, { mask, q, batch, length }: FoundAttention): string | undefined {
  const { emit } = view;
  const { dtype } = view.type(q.value);
  const zero = emit.constant(dtype, [], [0]);
  const low = emit.constant(dtype, [], [lowest]);
  const parts = [
    ...mask.bias.map(({ value, factor }) => emit.scale(value, factor)),
    ...mask.visible.map(({ value, negate }) =>
      negate ? emit.where(value, low, zero) : emit.where(value, zero, low),
    ),
  ];
  if (parts.length === 0) return undefined;
  const whole = parts.reduce((a, b) => emit.add(a, b));
  const shape = emit.shape(whole);
  // Scores without a head axis: [B, S, T] is [B, 1, S, T].
  const headless = mask.rank === 3 && shape.length === 3;
  if (!headless) return whole;
  const rows = shape[1] === 1 ? 1 : length;
  return emit.reshape(whole, [shape[0] === 1 ? 1 : batch, 1, rows, shape[2]!]);
}

/** One bool per key. */
function keyMask(view: GraphView, { mask, batch, keys }: FoundAttention): string | undefined {
  if (mask.keys.length === 0) return undefined;
  const { emit } = view;
  const truth = ({ value, negate }: Condition) => {
    const rows = numel(view.shape(value)) / keys;
    const flat = emit.cast(emit.reshape(value, [rows, keys]), 'bool');
    return negate ? emit.unary('Not', flat) : flat;
  };
  const all = mask.keys.map(truth).reduce((a, b) => emit.compare('And', a, b));
  return emit.expand(all, [batch, keys]);
}

function withoutTrailing(inputs: (string | undefined)[]): (string | undefined)[] {
  return inputs.slice(0, inputs.findLastIndex((input) => input !== undefined) + 1);
}

/** Stacking samples' values into one input of a graph. */
import { DeepSpeedError } from '../../errors.ts';
import { type DataType, type Dim, numel } from '../../graph/index.ts';
import type { Feed } from './batch.ts';
import type { SampleValue } from './sample.ts';

/** Types that a graph may take from samples. */
export type FeedType = Extract<DataType, 'float32' | 'int64' | 'int32' | 'bool'>;

export function isFeedType(dtype: DataType): dtype is FeedType {
  return dtype === 'float32' || dtype === 'int64' || dtype === 'int32' || dtype === 'bool';
}

/** An input as samples see it: its rows' axis left out. */
export interface RowSpec {
  name: string;
  dtype: FeedType;
  /** Undefined: unknown rank. */
  shape: readonly Dim[] | undefined;
  /** Fills what is shorter than the longest; absent: samples must be of one shape. */
  padValue?: number | undefined;
  /** Padded sizes are rounded up to a multiple of this. */
  multiple: number;
}

/** One sample's value, its shape settled. */
export interface Row {
  data: ArrayLike<number | bigint | boolean>;
  dims: readonly number[];
}

/**
 * Settles the shape of a sample's value against the input's declared one.
 *
 * @throws DATASET_INVALID naming sample and input when the value is missing or does not fit
 */
export function readRow(value: SampleValue | undefined, spec: RowSpec, index: number): Row {
  if (value === undefined || value === null) {
    throw invalid(index, `has no '${spec.name}', which the model takes`);
  }
  const row = toRow(value, spec.shape);
  if (!row) throw invalid(index, `'${spec.name}' is not a number, an array or { data, dims }`);
  const { data, dims } = row;
  const fits =
    data.length === numel(dims) &&
    (spec.shape === undefined ||
      (spec.shape.length === dims.length &&
        spec.shape.every((dim, axis) => typeof dim === 'string' || dim === dims[axis])));
  if (fits) return row;
  const declared = spec.shape === undefined ? '' : `, the model takes [${spec.shape.join(', ')}]`;
  const length = data.length === numel(dims) ? '' : ` from ${data.length} values`;
  throw invalid(index, `'${spec.name}' has shape [${dims.join(', ')}]${length}${declared}`);
}

function toRow(value: SampleValue, declared: readonly Dim[] | undefined): Row | undefined {
  if (typeof value === 'object' && 'dims' in value) return value;
  if (typeof value !== 'object') {
    const isNumber = ['number', 'bigint', 'boolean'].includes(typeof value);
    return isNumber ? { data: [value], dims: flatShape(1, declared ?? []) } : undefined;
  }
  const list = value as ArrayLike<SampleValue>;
  if (typeof list.length !== 'number') return undefined;
  if (!Array.isArray(list) || !Array.isArray(list[0])) {
    const data = list as ArrayLike<number>;
    return { data, dims: flatShape(data.length, declared ?? ['']) };
  }
  const dims: number[] = [];
  for (let level: unknown = list; Array.isArray(level); level = level[0]) dims.push(level.length);
  return { data: list.flat(Number.POSITIVE_INFINITY) as number[], dims };
}

/** The declared shape where one unknown size, at most, follows from the number of values. */
function flatShape(count: number, declared: readonly Dim[]): number[] {
  const open = declared.filter((dim) => typeof dim === 'string').length;
  const known = numel(declared.filter((dim) => typeof dim === 'number'));
  if (open === 0 && known === count) return [...(declared as number[])];
  if (open !== 1 || count % known !== 0) return [count];
  return declared.map((dim) => (typeof dim === 'number' ? dim : count / known));
}

/**
 * Stacks rows along a new first axis. With a padValue, axes of unknown size grow at their end to the
 * longest row's, rounded up to the multiple.
 *
 * @param indices of the samples in the dataset
 * @throws DATASET_INVALID when rows differ in shape and nothing says how to pad, or a value is not of
 *   the input's type
 */
export function stackRows(rows: readonly Row[], indices: readonly number[], spec: RowSpec): Feed {
  const dims = stackedShape(rows, indices, spec);
  const size = numel(dims);
  const data = allocate(spec.dtype, size * rows.length, spec.padValue ?? 0);
  for (const [position, row] of rows.entries()) {
    const write = elementWriter(data, spec, indices[position] ?? position);
    copyBlock(row, dims, position * size, write);
  }
  return { dtype: spec.dtype, dims: [rows.length, ...dims], data };
}

function stackedShape(
  rows: readonly Row[],
  indices: readonly number[],
  { name, shape, padValue, multiple }: RowSpec,
): number[] {
  const first = rows[0]!.dims;
  const other = rows.findIndex(({ dims }) => dims.join() !== first.join());
  const sameRank = rows.every(({ dims }) => dims.length === first.length);
  if (other >= 0 && (padValue === undefined || !sameRank)) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `'${name}' has shape [${first.join(', ')}] in sample ${indices[0]} and [${rows[other]!.dims.join(', ')}] in sample ${indices[other]}`,
      {
        fix: `Give samples of one shape, or say what fills the shorter ones: inputs: { ${JSON.stringify(name)}: { padValue: 0 } }.`,
        data: { input: name },
      },
    );
  }
  if (padValue === undefined) return [...first];
  return first.map((_, axis) => {
    const longest = Math.max(...rows.map(({ dims }) => dims[axis]!));
    const fixed = typeof shape?.[axis] === 'number';
    return fixed ? longest : Math.ceil(longest / multiple) * multiple;
  });
}

/** Calls `write` for each element of a row, with its place in a block of the larger shape. */
function copyBlock(
  { data, dims }: Row,
  target: readonly number[],
  start: number,
  write: (at: number, value: number | bigint | boolean) => void,
): void {
  let read = 0;
  const copy = (axis: number, at: number) => {
    if (axis === dims.length) {
      write(at, data[read++]!);
      return;
    }
    const stride = numel(target.slice(axis + 1));
    for (let i = 0; i < dims[axis]!; i += 1) copy(axis + 1, at + i * stride);
  };
  if (dims.join() !== target.join()) {
    copy(0, start);
    return;
  }
  for (let i = 0; i < data.length; i += 1) write(start + i, data[i]!);
}

function allocate(dtype: FeedType, count: number, fill: number): Feed['data'] {
  switch (dtype) {
    case 'float32':
      return new Float32Array(count).fill(fill);
    case 'int64':
      return new BigInt64Array(count).fill(BigInt(fill));
    case 'int32':
      return new Int32Array(count).fill(fill);
    default:
      return new Uint8Array(count).fill(fill);
  }
}

function elementWriter(
  data: Feed['data'],
  { name, dtype }: RowSpec,
  index: number,
): (at: number, value: number | bigint | boolean) => void {
  const wrong = (value: unknown) => invalid(index, `'${name}' is ${dtype} and holds ${value}`);
  if (dtype === 'float32') {
    return (at, value) => {
      if (typeof value !== 'number' && typeof value !== 'bigint') throw wrong(value);
      data[at] = Number(value);
    };
  }
  const limit = dtype === 'int32' ? 2 ** 31 : 2 ** 53;
  return (at, value) => {
    const number = Number(value);
    const isBool = number === 0 || number === 1;
    if (dtype === 'bool' ? !isBool : !Number.isInteger(number) || Math.abs(number) > limit) {
      throw wrong(value);
    }
    data[at] = dtype === 'int64' ? BigInt(number) : number;
  };
}

function invalid(index: number, message: string): DeepSpeedError {
  return new DeepSpeedError('DATASET_INVALID', `sample ${index}: ${message}`, {
    fix: 'Look at the sample named; it holds a value for each input of the model, without the batch axis.',
    data: { index },
  });
}

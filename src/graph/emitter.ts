/**
 * Emitting nodes whose types are known at once. Gradient rules, fusions and lowerings are functions
 * from existing values to new ones; an emitter gives them arithmetic over value names, so that a rule
 * reads like its formula. All shapes are concrete: what shape inference found, plus what is emitted.
 */
import { DeepSpeedError } from '../errors.ts';
import { attribute, type PlainAttribute } from './attributes.ts';
import { dataTypeNumbers } from './codec/types.ts';
import type { DataType, Node, Tensor, ValueType } from './ir.ts';
import { fromNumbers, numel } from './tensor.ts';

export interface ProductOptions {
  transA?: boolean;
  transB?: boolean;
  /** Scales the product. */
  alpha?: number;
}

export class Emitter {
  readonly nodes: Node[] = [];
  readonly constants = new Map<string, Tensor>();
  /** Copied onto every node emitted from now on. */
  metadata: Record<string, string> | undefined;
  private readonly types: Map<string, ValueType>;
  private readonly prefix: string;
  private readonly constantNames = new Map<string, string>();
  private counter = 0;

  /** `types` holds the values that exist; emitted ones are added. `prefix` begins every new name. */
  constructor(types: Map<string, ValueType>, prefix: string) {
    this.types = types;
    this.prefix = prefix;
  }

  type(name: string): ValueType {
    const type = this.types.get(name);
    if (type === undefined) {
      throw new DeepSpeedError('INTERNAL', `internal: no type is known for value '${name}'`);
    }
    return type;
  }

  shape(name: string): readonly number[] {
    return this.type(name).shape;
  }

  dtype(name: string): DataType {
    return this.type(name).dtype;
  }

  /** Makes a value known that comes from outside. */
  declare(name: string, type: ValueType): void {
    this.types.set(name, type);
  }

  /** Emits a node and returns its outputs, one per given type. Absent inputs are undefined. */
  node(
    opType: string,
    inputs: readonly (string | undefined)[],
    outputs: readonly ValueType[],
    attributes: Record<string, PlainAttribute> = {},
    domain = '',
  ): string[] {
    const name = this.freshName(opType);
    const names = outputs.map((_, i) => (i === 0 ? name : `${name}.${i}`));
    outputs.forEach((type, i) => {
      this.types.set(names[i]!, { dtype: type.dtype, shape: type.shape });
    });
    const node: Node = {
      name,
      opType,
      domain,
      inputs: inputs.map((input) => input ?? ''),
      outputs: names,
      attributes: Object.fromEntries(
        Object.entries(attributes).map(([key, value]) => [key, attribute(key, value)]),
      ),
    };
    if (this.metadata !== undefined) node.metadata = this.metadata;
    this.nodes.push(node);
    return names;
  }

  /** Like `node`, for the single output most operators have. */
  one(
    opType: string,
    inputs: readonly (string | undefined)[],
    output: ValueType,
    attributes: Record<string, PlainAttribute> = {},
    domain = '',
  ): string {
    return this.node(opType, inputs, [output], attributes, domain)[0]!;
  }

  /** A constant; equal ones share a name. */
  constant(dtype: DataType, dims: readonly number[], values: readonly number[]): string {
    const key = `${dtype}[${dims}]${values.map((v) => (Object.is(v, -0) ? '-0' : v))}`;
    const known = this.constantNames.get(key);
    if (known !== undefined) return known;
    return this.tensor(fromNumbers(dtype, dims, values), key);
  }

  /** A scalar of the element type of `like`. */
  scalar(value: number, like: string): string {
    return this.constant(this.dtype(like), [], [value]);
  }

  /** An int64 vector: axes, shapes, starts. */
  ints(values: readonly number[]): string {
    return this.constant('int64', [values.length], values);
  }

  /** A tensor as a constant value. */
  tensor(tensor: Tensor, key?: string): string {
    const name = this.freshName('const');
    this.constants.set(name, tensor);
    this.types.set(name, { dtype: tensor.dtype, shape: tensor.dims, constant: tensor });
    if (key !== undefined) this.constantNames.set(key, name);
    return name;
  }

  // ---- element by element

  unary(opType: string, x: string): string {
    return this.one(opType, [x], this.type(x));
  }

  /** A binary operator with broadcasting; the result has a's element type. */
  binary(opType: string, a: string, b: string): string {
    const shape = broadcastShapes(this.shape(a), this.shape(b));
    return this.one(opType, [a, b], { dtype: this.dtype(a), shape });
  }

  compare(opType: string, a: string, b: string): string {
    const shape = broadcastShapes(this.shape(a), this.shape(b));
    return this.one(opType, [a, b], { dtype: 'bool', shape });
  }

  add(a: string, b: string): string {
    return this.binary('Add', a, b);
  }

  sub(a: string, b: string): string {
    return this.binary('Sub', a, b);
  }

  mul(a: string, b: string): string {
    return this.binary('Mul', a, b);
  }

  div(a: string, b: string): string {
    return this.binary('Div', a, b);
  }

  neg(x: string): string {
    return this.unary('Neg', x);
  }

  /** factor · x; x itself when the factor is 1. */
  scale(x: string, factor: number): string {
    return factor === 1 ? x : this.mul(x, this.scalar(factor, x));
  }

  /** x + term. */
  shift(x: string, term: number): string {
    return this.add(x, this.scalar(term, x));
  }

  where(condition: string, a: string, b: string): string {
    const shape = broadcastShapes(this.shape(condition), this.shape(a), this.shape(b));
    return this.one('Where', [condition, a, b], { dtype: this.dtype(a), shape });
  }

  /** x where the condition holds, else 0. */
  keepWhere(condition: string, x: string): string {
    return this.where(condition, x, this.scalar(0, x));
  }

  cast(x: string, dtype: DataType): string {
    if (this.dtype(x) === dtype) return x;
    return this.one('Cast', [x], { dtype, shape: this.shape(x) }, { to: dataTypeNumbers[dtype] });
  }

  // ---- layout

  reshape(x: string, shape: readonly number[]): string {
    if (sameShape(this.shape(x), shape)) return x;
    return this.one(
      'Reshape',
      [x, this.ints(shape)],
      { dtype: this.dtype(x), shape },
      {
        allowzero: shape.includes(0) ? 1 : 0,
      },
    );
  }

  transpose(x: string, perm: readonly number[]): string {
    if (perm.every((axis, i) => axis === i)) return x;
    const shape = perm.map((axis) => this.shape(x)[axis]!);
    return this.one('Transpose', [x], { dtype: this.dtype(x), shape }, { perm });
  }

  expand(x: string, shape: readonly number[]): string {
    if (sameShape(this.shape(x), shape)) return x;
    return this.one('Expand', [x, this.ints(shape)], { dtype: this.dtype(x), shape });
  }

  concat(parts: readonly string[], axis: number): string {
    const shape = [...this.shape(parts[0]!)];
    shape[axis] = parts.reduce((total, part) => total + this.shape(part)[axis]!, 0);
    return this.one('Concat', parts, { dtype: this.dtype(parts[0]!), shape }, { axis });
  }

  split(x: string, axis: number, sizes: readonly number[]): string[] {
    const outputs = sizes.map((size) => ({
      dtype: this.dtype(x),
      shape: this.shape(x).map((dim, i) => (i === axis ? size : dim)),
    }));
    return this.node('Split', [x, this.ints(sizes)], outputs, { axis });
  }

  /** Elements [start, end) of one axis. */
  slice(x: string, axis: number, start: number, end: number): string {
    const shape = this.shape(x).map((dim, i) => (i === axis ? end - start : dim));
    const bounds = [this.ints([start]), this.ints([end]), this.ints([axis])];
    return this.one('Slice', [x, ...bounds], { dtype: this.dtype(x), shape });
  }

  /** Zeros around x: `before[i]` and `after[i]` elements on axis i. */
  pad(x: string, before: readonly number[], after: readonly number[]): string {
    if ([...before, ...after].every((count) => count === 0)) return x;
    const shape = this.shape(x).map((dim, i) => before[i]! + dim + after[i]!);
    const pads = this.ints([...before, ...after]);
    return this.one('Pad', [x, pads, this.scalar(0, x)], { dtype: this.dtype(x), shape });
  }

  /** int64 [end − start]: start, start + 1, ..., end − 1. Computed, so that a long one is not stored. */
  range(start: number, end: number, dtype: DataType = 'int64'): string {
    const bounds = [start, end, 1].map((value) => this.constant(dtype, [], [value]));
    return this.one('Range', bounds, { dtype, shape: [end - start] });
  }

  /** Zeros of a shape, without storing them. */
  zeros(dtype: DataType, shape: readonly number[]): string {
    return this.expand(
      this.constant(
        dtype,
        shape.map(() => 1),
        [0],
      ),
      shape,
    );
  }

  // ---- reductions and products

  /** ReduceSum, ReduceMean, ReduceMax, ... over `axes` (not negative). */
  reduce(opType: string, x: string, axes: readonly number[], keepDims: boolean): string {
    if (axes.length === 0) return x;
    const shape = reducedShape(this.shape(x), axes, keepDims);
    return this.one(
      opType,
      [x, this.ints(axes)],
      { dtype: this.dtype(x), shape },
      { keepdims: keepDims ? 1 : 0 },
    );
  }

  sum(x: string, axes: readonly number[], keepDims = true): string {
    return this.reduce('ReduceSum', x, axes, keepDims);
  }

  mean(x: string, axes: readonly number[], keepDims = true): string {
    return this.reduce('ReduceMean', x, axes, keepDims);
  }

  /**
   * alpha · op(a) · op(b) for operands of rank 2 or more, leading axes broadcast. A transposition or a
   * scale becomes com.microsoft.FusedMatMul, which copies nothing.
   */
  product(a: string, b: string, options: ProductOptions = {}): string {
    const { transA = false, transB = false, alpha = 1 } = options;
    const left = this.shape(a);
    const right = this.shape(b);
    const rows = left.at(transA ? -1 : -2)!;
    const columns = right.at(transB ? -2 : -1)!;
    const batch = broadcastShapes(left.slice(0, -2), right.slice(0, -2));
    const type = { dtype: this.dtype(a), shape: [...batch, rows, columns] };
    if (!transA && !transB && alpha === 1) return this.one('MatMul', [a, b], type);
    const attributes = { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha };
    return this.one('FusedMatMul', [a, b], type, attributes, 'com.microsoft');
  }

  private freshName(opType: string): string {
    let name: string;
    do name = `${this.prefix}${opType}_${this.counter++}`;
    while (this.types.has(name));
    return name;
  }
}

/** numpy's broadcasting: shapes are aligned at the last axis, 1 stretches. */
export function broadcastShapes(...shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  const result: number[] = new Array(rank).fill(1);
  for (const shape of shapes) {
    const offset = rank - shape.length;
    shape.forEach((dim, i) => {
      const known = result[offset + i]!;
      if (dim !== known && dim !== 1 && known !== 1) {
        throw new DeepSpeedError(
          'INTERNAL',
          `internal: shapes ${shapes.map((s) => `[${s}]`).join(', ')} do not broadcast`,
        );
      }
      if (dim !== 1) result[offset + i] = dim;
    });
  }
  return result;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

export function reducedShape(
  shape: readonly number[],
  axes: readonly number[],
  keepDims: boolean,
): number[] {
  if (keepDims) return shape.map((dim, i) => (axes.includes(i) ? 1 : dim));
  return shape.filter((_, i) => !axes.includes(i));
}

/** A negative axis counts from the end. */
export function positiveAxis(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}

/** Types that carry gradients. */
export function isFloat(dtype: DataType): boolean {
  return dtype === 'float32' || dtype === 'float64' || dtype === 'float16' || dtype === 'bfloat16';
}

/** Product of the dimensions before `axis`, and from it on: a matrix view of any tensor. */
export function flattenAt(shape: readonly number[], axis: number): [rows: number, columns: number] {
  return [numel(shape.slice(0, axis)), numel(shape.slice(axis))];
}

/**
 * Constants as numbers and back. A `Tensor` keeps raw little-endian bytes (often a view into the model
 * file, at any alignment); these helpers give it a typed face. Strings are kept as a uint32 byte length
 * followed by UTF-8, element after element.
 */
import { DeepSpeedError } from '../errors.ts';
import type { DataType, Tensor } from './ir.ts';

export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array;

type NumericType = Exclude<DataType, 'string'>;

/** Storage of each type; the 16-bit floats have no array of their own and show their bits. */
const storage = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const satisfies Record<NumericType, unknown>;

const int64Min = -(2n ** 63n);
const int64Max = 2n ** 63n - 1n;
const uint64Max = 2n ** 64n - 1n;

/** Bytes of one element. Throws for strings, whose elements differ in length. */
export function elementSize(dtype: DataType): number {
  if (dtype === 'string') throw internal('string elements have no fixed size');
  return storage[dtype].BYTES_PER_ELEMENT;
}

/** Number of elements: 1 for a scalar (`[]`), 0 when any dimension is 0. */
export function numel(dims: readonly number[]): number {
  return dims.reduce((count, dim) => count * dim, 1);
}

/**
 * A tensor from plain numbers. Integers are truncated towards zero and clamped to 64 bits where the
 * type has 64 (so that 2^63, the nearest double to INT64_MAX, becomes INT64_MAX); narrower integers wrap
 * as typed arrays do; bool is `value !== 0`; float16 and bfloat16 round to nearest even.
 * `values` has numel(dims) elements.
 */
export function fromNumbers(
  dtype: DataType,
  dims: readonly number[],
  values: ArrayLike<number>,
): Tensor {
  if (values.length !== numel(dims)) {
    throw internal(`${values.length} values do not fill a tensor of shape [${dims.join(', ')}]`);
  }
  if (dtype === 'string') throw internal('a string tensor is made by fromStrings');
  return fromTyped(dtype, dims, toStorage(dtype, values));
}

/** A tensor over the bytes of a typed array; nothing is copied. The element size must be the type's. */
export function fromTyped(dtype: DataType, dims: readonly number[], array: TypedArray): Tensor {
  if (array.BYTES_PER_ELEMENT !== elementSize(dtype) || array.length !== numel(dims)) {
    throw internal(`an array of ${array.length} elements does not hold ${dtype} [${dims}]`);
  }
  return { dtype, dims, data: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) };
}

/** A tensor of zeros. */
export function zeros(dtype: DataType, dims: readonly number[]): Tensor {
  return { dtype, dims, data: new Uint8Array(numel(dims) * elementSize(dtype)) };
}

/**
 * The elements in their storage type: BigInt64Array for int64, Uint16Array bits for the 16-bit floats,
 * Uint8Array for bool. A view when the bytes are aligned, else a copy: read, do not write.
 */
export function typedView(tensor: Tensor): TypedArray {
  const { data, dtype } = tensor;
  const size = elementSize(dtype);
  const bytes = data.byteOffset % size === 0 ? data : data.slice();
  const Storage = storage[dtype as NumericType];
  return new Storage(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / size);
}

/** All elements as doubles; 64-bit integers beyond 2^53 are rounded. bool gives 0 and 1. */
export function toNumbers(tensor: Tensor): number[] {
  const view = typedView(tensor);
  switch (tensor.dtype) {
    case 'float16':
      return Array.from(view as Uint16Array, halfToFloat);
    case 'bfloat16':
      return Array.from(view as Uint16Array, bfloat16ToFloat);
    default:
      return Array.from(view as ArrayLike<number | bigint>, Number);
  }
}

/** A tensor of strings, in the layout described at the top of this file. */
export function fromStrings(dims: readonly number[], values: readonly string[]): Tensor {
  const encoded = values.map((value) => new TextEncoder().encode(value));
  return fromStringBytes(dims, encoded);
}

/** Like fromStrings, for elements that are already UTF-8. */
export function fromStringBytes(dims: readonly number[], values: readonly Uint8Array[]): Tensor {
  if (values.length !== numel(dims)) {
    throw internal(`${values.length} strings do not fill a tensor of shape [${dims.join(', ')}]`);
  }
  const data = new Uint8Array(values.reduce((total, value) => total + 4 + value.length, 0));
  const header = new DataView(data.buffer);
  let at = 0;
  for (const value of values) {
    header.setUint32(at, value.length, true);
    data.set(value, at + 4);
    at += 4 + value.length;
  }
  return { dtype: 'string', dims, data };
}

/** The elements of a string tensor as UTF-8 views. */
export function toStringBytes(tensor: Tensor): Uint8Array[] {
  const { data } = tensor;
  const header = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const values: Uint8Array[] = [];
  for (let at = 0; at < data.length; ) {
    const length = header.getUint32(at, true);
    values.push(data.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return values;
}

/** Same type, shape and bytes. (NaN equals itself, -0 differs from 0.) */
export function tensorsEqual(a: Tensor, b: Tensor): boolean {
  return (
    a.dtype === b.dtype &&
    a.dims.length === b.dims.length &&
    a.dims.every((dim, i) => dim === b.dims[i]) &&
    a.data.length === b.data.length &&
    a.data.every((byte, i) => byte === b.data[i])
  );
}

const scratch = new DataView(new ArrayBuffer(4));

/** The nearest bfloat16 (ties to even) of a number, as its 16 bits. NaN stays NaN. */
export function floatToBfloat16(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that 16 bfloat16 bits stand for: the upper half of a float32. */
export function bfloat16ToFloat(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** The nearest IEEE float16 (ties to even) of a number, as its 16 bits; overflow gives infinity. */
export function floatToHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(value)) return 0x7e00;
  const magnitude = Math.abs(value);
  if (magnitude === Number.POSITIVE_INFINITY) return sign | 0x7c00;
  // One unit in the last place: 2^-24 for subnormals, else 2^(exponent - 10).
  const exponent = magnitude < 2 ** -14 ? -14 : Math.floor(Math.log2(magnitude));
  const steps = roundHalfEven(magnitude / 2 ** (exponent - 10));
  // `steps` counts units from zero of that binade; carries flow into the exponent by plain addition.
  const bits = magnitude < 2 ** -14 ? steps : ((exponent + 15) << 10) + (steps - 1024);
  return sign | Math.min(bits, 0x7c00);
}

/** The number that 16 float16 bits stand for. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function toStorage(dtype: NumericType, values: ArrayLike<number>): TypedArray {
  switch (dtype) {
    case 'float16':
      return Uint16Array.from(values, floatToHalf);
    case 'bfloat16':
      return Uint16Array.from(values, floatToBfloat16);
    case 'bool':
      return Uint8Array.from(values, (value) => (value === 0 ? 0 : 1));
    case 'int64':
      return BigInt64Array.from(Array.from(values, (value) => toBigInt(value, int64Min, int64Max)));
    case 'uint64':
      return BigUint64Array.from(Array.from(values, (value) => toBigInt(value, 0n, uint64Max)));
    default:
      return storage[dtype].from(values);
  }
}

/** Truncates a double and clamps it into [low, high]; NaN becomes 0. */
export function toBigInt(value: number, low = int64Min, high = int64Max): bigint {
  if (Number.isNaN(value)) return 0n;
  if (value >= Number(high)) return high;
  if (value <= Number(low)) return low;
  return BigInt(Math.trunc(value));
}

function internal(message: string): DeepSpeedError {
  return new DeepSpeedError('INTERNAL', `internal: ${message}`);
}

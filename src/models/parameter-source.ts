/** Parameters that are read when they are needed, whole or in part, always as float32. */
import type { DataType, Tensor } from '../graph/ir.ts';
import {
  bfloat16ToFloat,
  floatToBfloat16,
  floatToHalf,
  halfToFloat,
  numel,
  typedView,
} from '../graph/tensor.ts';
import { initialValues } from './init.ts';
import type { ParameterSpec } from './parameters.ts';
import type { SafetensorsFile } from './safetensors.ts';

export interface ParameterSource {
  readonly shape: readonly number[];
  /** Elements [start, start + count) in row-major order; all of them by default. Do not write to it. */
  read(start?: number, count?: number): Float32Array;
}

/** Types that weights may be stored in. */
export type WeightType = Extract<DataType, 'float32' | 'float16' | 'bfloat16' | 'float64'>;

export function isWeightType(dtype: DataType): dtype is WeightType {
  return ['float32', 'float16', 'bfloat16', 'float64'].includes(dtype);
}

/** Values in memory; nothing is copied. */
export function arraySource(shape: readonly number[], values: Float32Array): ParameterSource {
  return { shape, read: (start = 0, count) => part(values, start, count) };
}

export function tensorSource(tensor: Tensor): ParameterSource {
  return arraySource(tensor.dims, toFloat32(tensor));
}

/** The values that a new model starts from, made on demand. */
export function initialSource(spec: ParameterSpec, seed: number): ParameterSource {
  return { shape: spec.shape, read: (start, count) => initialValues(spec, seed, start, count) };
}

/** A tensor of an open file, whose type is a WeightType. */
export function fileSource(file: SafetensorsFile, name: string): ParameterSource {
  const { dtype, shape } = file.tensors.get(name)!;
  return {
    shape,
    read(start = 0, count = numel(shape) - start) {
      return toFloat32({ dtype, dims: [count], data: file.readBytes(name, start, count) });
    },
  };
}

/** The same numbers as bytes of another float type, rounded to nearest even. */
export function toBytes(
  values: Float32Array,
  dtype: 'float32' | 'float16' | 'bfloat16',
): Uint8Array {
  const array =
    dtype === 'float32'
      ? values
      : Uint16Array.from(values, dtype === 'float16' ? floatToHalf : floatToBfloat16);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function toFloat32(tensor: Tensor): Float32Array {
  const view = typedView(tensor);
  if (view instanceof Float32Array) return view;
  if (tensor.dtype === 'float16') return Float32Array.from(view as Uint16Array, halfToFloat);
  if (tensor.dtype === 'bfloat16') return Float32Array.from(view as Uint16Array, bfloat16ToFloat);
  return Float32Array.from(view as Float64Array);
}

function part(values: Float32Array, start: number, count = values.length - start): Float32Array {
  return values.subarray(start, start + count);
}

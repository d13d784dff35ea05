/** ONNX's numbers for element types and attribute types. */
import { DeepSpeedError } from '../../errors.ts';
import type { Attribute, DataType } from '../ir.ts';

export const dataTypeNumbers: Record<DataType, number> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  string: 8,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
};

const dataTypes = new Map(
  Object.entries(dataTypeNumbers).map(([name, number]) => [number, name as DataType]),
);

/** Types that ONNX has and the graph does not: quantised and complex ones. */
const refusedTypes: Record<number, string> = {
  14: 'complex64',
  15: 'complex128',
  17: 'float8e4m3fn',
  18: 'float8e4m3fnuz',
  19: 'float8e5m2',
  20: 'float8e5m2fnuz',
  21: 'uint4',
  22: 'int4',
  23: 'float4e2m1',
  24: 'float8e8m0',
  25: 'uint2',
  26: 'int2',
};

export const attributeTypeNumbers: Record<Attribute['type'], number> = {
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
};

export const attributeTypes = new Map(
  Object.entries(attributeTypeNumbers).map(([name, number]) => [number, name as Attribute['type']]),
);

/** The element type of a number in a file; `what` names the value in the error. */
export function dataTypeOf(number: number, what: string): DataType {
  const dtype = dataTypes.get(number);
  if (dtype !== undefined) return dtype;
  const refused = refusedTypes[number];
  if (refused !== undefined) {
    throw refusal(
      `${what} has element type ${refused}`,
      'Export the model without quantisation, in float32 or float16.',
    );
  }
  throw new DeepSpeedError(
    'MODEL_FILE_INVALID',
    `not a valid ONNX model: ${what} has element type ${number}, which does not exist`,
  );
}

/** Something that ONNX allows and this library does not have. */
export function refusal(what: string, fix: string): DeepSpeedError {
  return new DeepSpeedError('NOT_AVAILABLE_YET', `${what}: not available yet`, { fix });
}

/** TensorProto → Tensor. Whatever field the elements are in, they end as raw little-endian bytes. */
import type { Tensor } from '../ir.ts';
import { elementSize, fromStringBytes, fromTyped, numel } from '../tensor.ts';
import type { WireReader } from './reader.ts';
import { dataTypeOf, refusal } from './types.ts';

/** A tensor whose bytes lie in another file; `loadModel` fills in `tensor.data`. */
export interface ExternalTensor {
  tensor: Tensor;
  name: string;
  /** Relative to the model file. */
  location: string;
  offset: number;
  /** Bytes; what shape and type say. */
  length: number;
}

/** The elements as the file gives them: one of these is filled. */
interface Elements {
  raw: Uint8Array | undefined;
  /** float_data and double_data. */
  floats: number[];
  /** int32_data, int64_data and uint64_data. */
  ints: bigint[];
  strings: Uint8Array[];
}

/** Reads one TensorProto. External tensors get no bytes and are added to `external`. */
export function decodeTensor(
  reader: WireReader,
  external: ExternalTensor[],
): { name: string; tensor: Tensor } {
  const dims: number[] = [];
  const elements: Elements = { raw: undefined, floats: [], ints: [], strings: [] };
  const location = new Map<string, string>();
  let typeNumber = 0;
  let name = '';
  let isExternal = false;
  const takeInt = () => {
    elements.ints.push((BigInt(reader.high | 0) << 32n) | BigInt(reader.low));
  };
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        reader.varints(() => dims.push((reader.high | 0) * 2 ** 32 + reader.low));
        break;
      case 2:
        typeNumber = reader.int();
        break;
      case 3:
        throw refusal('a tensor in segments', 'Save the model with onnx 1.2 or later.');
      case 4:
        reader.floats((value) => elements.floats.push(value));
        break;
      case 5:
      case 7:
      case 11:
        reader.varints(takeInt);
        break;
      case 6:
        elements.strings.push(reader.data());
        break;
      case 8:
        name = reader.string();
        break;
      case 9:
        elements.raw = reader.data();
        break;
      case 10:
        reader.doubles((value) => elements.floats.push(value));
        break;
      case 13:
        location.set(...reader.stringEntry('external_data'));
        break;
      case 14:
        isExternal = reader.int() === 1;
        break;
      default: // Documentation and metadata of a tensor change nothing.
        reader.skip();
    }
  }
  const what = `tensor '${name}'`;
  const dtype = dataTypeOf(typeNumber, what);
  const count = numel(dims);
  if (dims.some((dim) => dim < 0) || !Number.isSafeInteger(count)) {
    throw reader.fault(`${what} has shape [${dims.join(', ')}]`);
  }
  if (isExternal) {
    if (dtype === 'string') throw reader.fault(`${what} holds strings in external data`);
    const tensor: Tensor = { dtype, dims, data: new Uint8Array(0) };
    external.push({
      tensor,
      name,
      ...externalRange(reader, what, location, count * elementSize(dtype)),
    });
    return { name, tensor };
  }
  const found = elementCount(elements, dtype);
  if (found !== count) {
    throw reader.fault(`${what} of shape [${dims.join(', ')}] has ${found} elements`);
  }
  return { name, tensor: gather(elements, dtype, dims) };
}

function elementCount(elements: Elements, dtype: Tensor['dtype']): number {
  if (dtype === 'string') return elements.strings.length;
  if (elements.raw !== undefined) return elements.raw.length / elementSize(dtype);
  return dtype === 'float32' || dtype === 'float64' ? elements.floats.length : elements.ints.length;
}

function gather(elements: Elements, dtype: Tensor['dtype'], dims: number[]): Tensor {
  const { raw, floats, ints, strings } = elements;
  if (dtype === 'string') return fromStringBytes(dims, strings);
  if (raw !== undefined) return { dtype, dims, data: raw };
  switch (dtype) {
    case 'float32':
      return fromTyped(dtype, dims, Float32Array.from(floats));
    case 'float64':
      return fromTyped(dtype, dims, Float64Array.from(floats));
    case 'int64':
      return fromTyped(dtype, dims, BigInt64Array.from(ints));
    case 'uint64':
      return fromTyped(dtype, dims, BigUint64Array.from(ints));
    default: {
      // Each narrower element lies in one varint: the 16-bit floats as their bits.
      const size = elementSize(dtype);
      const Storage = size === 1 ? Uint8Array : size === 2 ? Uint16Array : Uint32Array;
      const words = ints.map((value) => Number(BigInt.asUintN(32, value)));
      return fromTyped(dtype, dims, new Storage(words));
    }
  }
}

function externalRange(
  reader: WireReader,
  what: string,
  entries: Map<string, string>,
  bytes: number,
): { location: string; offset: number; length: number } {
  const location = entries.get('location') ?? '';
  const offset = Number(entries.get('offset') ?? 0);
  const length = Number(entries.get('length') ?? bytes);
  if (location === '') throw reader.fault(`${what} is external and names no file`);
  if (!Number.isSafeInteger(offset) || offset < 0 || length !== bytes) {
    throw reader.fault(
      `${what} needs ${bytes} bytes; its external data says offset ${entries.get('offset')}, length ${entries.get('length')}`,
    );
  }
  return { location, offset, length };
}

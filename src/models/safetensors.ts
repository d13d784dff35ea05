/**
 * The safetensors file format: a u64 header length, a JSON header, then the tensors' bytes.
 * Format: https://huggingface.co/docs/safetensors (header layout and its rules).
 *
 * Files are read in ranges through a descriptor, so that a shard of a parameter can be taken from a file
 * of any size without the rest.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { DeepSpeedError } from '../errors.ts';
import type { DataType } from '../graph/ir.ts';
import { elementSize, numel } from '../graph/tensor.ts';

/** safetensors' names of element types → ours. */
export const safetensorsTypes: Readonly<Record<string, DataType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U64: 'uint64',
  U32: 'uint32',
  U16: 'uint16',
  U8: 'uint8',
  BOOL: 'bool',
};

export interface StoredTensor {
  name: string;
  dtype: DataType;
  shape: readonly number[];
  /** Of its first byte, from the start of the file. */
  fileOffset: number;
  bytes: number;
}

/** The reference implementation's limit; a larger length is a damaged or foreign file. */
const maxHeaderBytes = 100_000_000;

/** An open file. Tensors are found by name and read whole or in part. */
export class SafetensorsFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  private readonly fd: number;

  /** @throws WEIGHTS_INVALID when the file is not whole and consistent. */
  constructor(path: string) {
    this.path = path;
    try {
      this.fd = openSync(path, 'r');
    } catch (cause) {
      throw new DeepSpeedError('WEIGHTS_INVALID', `${path} cannot be opened`, { cause });
    }
    try {
      const fileBytes = fstatSync(this.fd).size;
      const header = this.readHeader(fileBytes);
      this.metadata = header.metadata;
      this.tensors = header.tensors;
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
  }

  /** Elements [start, start + count) of a tensor, as stored; all of it by default. */
  readBytes(name: string, start = 0, count?: number): Uint8Array {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw this.invalid(`has no tensor ${name}`);
    const size = elementSize(tensor.dtype);
    const length = (count ?? tensor.bytes / size - start) * size;
    if (start < 0 || length < 0 || start * size + length > tensor.bytes) {
      throw this.invalid(
        `${name} has ${tensor.bytes / size} elements, asked for ${count} at ${start}`,
      );
    }
    const target = new Uint8Array(length);
    this.readInto(target, tensor.fileOffset + start * size);
    return target;
  }

  close(): void {
    closeSync(this.fd);
  }

  private readInto(target: Uint8Array, fileOffset: number): void {
    // One read call returns at most 2 GiB.
    for (let done = 0; done < target.length; ) {
      const wanted = Math.min(target.length - done, 1 << 30);
      const got = readSync(this.fd, target, done, wanted, fileOffset + done);
      if (got === 0) throw this.invalid(`ends at byte ${fileOffset + done}: truncated`);
      done += got;
    }
  }

  private readHeader(fileBytes: number) {
    if (fileBytes < 8) throw this.invalid(`has ${fileBytes} bytes, fewer than a header`);
    const prefix = new Uint8Array(8);
    this.readInto(prefix, 0);
    const declared = new DataView(prefix.buffer).getBigUint64(0, true);
    if (declared > BigInt(Math.min(maxHeaderBytes, fileBytes - 8))) {
      throw this.invalid(`declares a header of ${declared} bytes in a file of ${fileBytes}`);
    }
    const headerBytes = Number(declared);
    const raw = new Uint8Array(headerBytes);
    this.readInto(raw, 8);
    let json: unknown;
    try {
      json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw));
    } catch (cause) {
      throw this.invalid('has a header that is not JSON', cause);
    }
    return parseHeader(json, 8 + headerBytes, fileBytes, (message) => this.invalid(message));
  }

  private invalid(message: string, cause?: unknown): DeepSpeedError {
    return new DeepSpeedError('WEIGHTS_INVALID', `${this.path} ${message}`, {
      cause,
      data: { path: this.path },
    });
  }
}

interface Header {
  metadata: Record<string, string>;
  tensors: Map<string, StoredTensor>;
}

/** Checks types, sizes, and that the tensors cover the file's data exactly, without holes or overlaps. */
function parseHeader(
  json: unknown,
  dataStart: number,
  fileBytes: number,
  invalid: (message: string) => DeepSpeedError,
): Header {
  if (!isObject(json)) throw invalid('has a header that is not an object');
  const { __metadata__: metadata = {}, ...entries } = json;
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw invalid('has a __metadata__ that is not a map of strings');
  }
  const tensors = Object.entries(entries).map(([name, entry]) =>
    parseEntry(name, entry, dataStart, invalid),
  );
  let end = dataStart;
  for (const tensor of [...tensors].sort(
    (a, b) => a.fileOffset - b.fileOffset || a.bytes - b.bytes,
  )) {
    if (tensor.fileOffset !== end) {
      const what = tensor.fileOffset < end ? 'overlaps another tensor' : 'leaves a hole before it';
      throw invalid(`: ${tensor.name} ${what}`);
    }
    end += tensor.bytes;
  }
  if (end !== fileBytes) {
    throw invalid(`has ${fileBytes} bytes, its tensors end at ${end}: truncated or padded`);
  }
  return {
    metadata: metadata as Record<string, string>,
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
  };
}

function parseEntry(
  name: string,
  entry: unknown,
  dataStart: number,
  invalid: (message: string) => DeepSpeedError,
): StoredTensor {
  const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
  const type = typeof dtype === 'string' ? safetensorsTypes[dtype] : undefined;
  if (type === undefined) throw invalid(`: ${name} has element type ${JSON.stringify(dtype)}`);
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
    throw invalid(`: ${name} has a malformed shape or malformed offsets`);
  }
  const [begin, end] = offsets as [number, number];
  const bytes = numel(shape) * elementSize(type);
  if (end - begin !== bytes) {
    throw invalid(`: ${name} of shape [${shape}] needs ${bytes} bytes and is given ${end - begin}`);
  }
  return { name, dtype: type, shape, fileOffset: dataStart + begin, bytes };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

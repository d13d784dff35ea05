/** Writing safetensors as a stream: no tensor need be in memory as a whole, and the file appears complete. */
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { DeepSpeedError } from '../errors.ts';
import type { DataType } from '../graph/ir.ts';
import { elementSize, numel } from '../graph/tensor.ts';
import { safetensorsTypes } from './safetensors.ts';

export interface TensorToWrite {
  name: string;
  dtype: DataType;
  shape: readonly number[];
  /** Its bytes in order, in pieces of any size; asked for once. */
  chunks(): Iterable<Uint8Array>;
}

const typeNames = new Map(Object.entries(safetensorsTypes).map(([name, type]) => [type, name]));

/** Bytes of data that `writeSafetensors` will write for these tensors. */
export function dataBytes(tensors: readonly Pick<TensorToWrite, 'dtype' | 'shape'>[]): number {
  return tensors.reduce((sum, { dtype, shape }) => sum + numel(shape) * elementSize(dtype), 0);
}

/**
 * Writes the tensors in the order given under a temporary name, syncs, and renames.
 *
 * @throws OUTPUT_NOT_WRITABLE when the disk refuses; then nothing is left behind.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    const file = await open(temporary, 'w');
    try {
      await writeFully(file, encodeHeader(tensors, metadata));
      for (const tensor of tensors) await writeTensor(file, tensor);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    if (cause instanceof DeepSpeedError) throw cause;
    throw new DeepSpeedError(
      'OUTPUT_NOT_WRITABLE',
      `cannot write ${path}: ${(cause as Error).message}`,
      { cause, data: { path } },
    );
  }
}

async function writeTensor(file: FileHandle, tensor: TensorToWrite): Promise<void> {
  let bytes = 0;
  for (const chunk of tensor.chunks()) {
    await writeFully(file, chunk);
    bytes += chunk.length;
  }
  if (bytes !== dataBytes([tensor])) {
    throw new DeepSpeedError(
      'INTERNAL',
      `internal: ${tensor.name} gave ${bytes} bytes, its shape [${tensor.shape}] needs ${dataBytes([tensor])}`,
    );
  }
}

/** One write call takes at most 2 GiB, and may take less than given. */
async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(bytes.length - done, 1 << 30);
    done += (await file.write(bytes, done, length)).bytesWritten;
  }
}

/** Length and JSON, padded with blanks so that the data starts at a multiple of 8 bytes. */
function encodeHeader(
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    const begin = end;
    end += numel(shape) * elementSize(dtype);
    header[name] = { dtype: typeNames.get(dtype), shape, data_offsets: [begin, end] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, 8);
  return bytes;
}

import type { FilePiece, NativeBuffer } from '../../native/contract.ts';

const bytesPerElement = 4;

/** A stretch of engine memory that becomes one flat fp32 tensor of a shard file. */
export interface FlatTensor {
  name: string;
  buffer: NativeBuffer;
  byteOffset: number;
  count: number;
}

/**
 * A rank's shard as one safetensors file: any safetensors reader opens it. The header is padded so that
 * data starts at a multiple of 4 KiB, which keeps direct and memory-mapped reads aligned.
 */
export function shardFile(tensors: readonly FlatTensor[]): {
  pieces: FilePiece[];
  /** Byte offset in the file, by tensor. */
  offsets: Record<string, number>;
} {
  let end = 0;
  const entries: Record<string, unknown> = {};
  for (const { name, count } of tensors) {
    const bytes = count * bytesPerElement;
    entries[name] = { dtype: 'F32', shape: [count], data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const json = JSON.stringify(entries);
  const dataStart = Math.ceil((8 + json.length) / 4096) * 4096;
  const header = Buffer.alloc(dataStart, ' ');
  header.writeBigUInt64LE(BigInt(dataStart - 8));
  header.write(json, 8, 'utf8');
  const pieces: FilePiece[] = [{ fileOffset: 0, source: header }];
  const offsets: Record<string, number> = {};
  let offset = dataStart;
  for (const { name, buffer, byteOffset, count } of tensors) {
    const bytes = count * bytesPerElement;
    offsets[name] = offset;
    if (bytes > 0) pieces.push({ fileOffset: offset, source: { buffer, byteOffset, bytes } });
    offset += bytes;
  }
  return { pieces, offsets };
}

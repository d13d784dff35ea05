import type { FilePiece } from '../../native/contract.ts';
import type { Place } from '../held.ts';

const bytesPerElement = 4;

/** What becomes one flat fp32 tensor of a shard file. */
export interface FlatTensor {
  name: string;
  count: number;
  /** `count` elements in all. */
  places: readonly Place[];
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
  for (const { name, places } of tensors) {
    offsets[name] = offset;
    for (const source of places) {
      if (source.bytes > 0) pieces.push({ fileOffset: offset, source });
      offset += source.bytes;
    }
  }
  return { pieces, offsets };
}

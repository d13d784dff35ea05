import type { FilePiece } from '../../native/contract.ts';
import { intersect, type Shard } from '../../layout.ts';
import type { Place } from '../held.ts';

const bytesPerElement = 4;

/** What becomes one flat fp32 tensor of a shard file. */
export interface FlatTensor {
  name: string;
  count: number;
  /** `count` elements in all. */
  places: readonly Place[];
  /**
   * When training may change it: the update, element by element; backward, which comes first; never. Tensors that
   * the update changes have one length, the shard's.
   */
  changedBy: 'update' | 'backward' | null;
}

/**
 * A rank's shard as one safetensors file: any safetensors reader opens it. The header is padded so that
 * data starts at a multiple of 4 KiB, which keeps direct and memory-mapped reads aligned.
 *
 * @param stretches of the shard, in order
 * @returns the pieces of the file in the order in which they are to be read: what backward changes; each stretch of
 *   what the update changes; what stays
 */
export function shardFile(
  tensors: readonly FlatTensor[],
  stretches: readonly Shard[],
): {
  groups: FilePiece[][];
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
  const first: FilePiece[] = [];
  const last: FilePiece[] = [{ fileOffset: 0, source: header }];
  const byStretch: FilePiece[][] = stretches.map(() => []);
  const offsets: Record<string, number> = {};
  let offset = dataStart;
  for (const { name, count, places, changedBy } of tensors) {
    offsets[name] = offset;
    const pieces = (range: Shard) => piecesOf(places, range, offset);
    if (changedBy === 'update') {
      for (const [index, stretch] of stretches.entries())
        byStretch[index]!.push(...pieces(stretch));
    } else (changedBy === 'backward' ? first : last).push(...pieces({ offset: 0, count }));
    offset += count * bytesPerElement;
  }
  return { groups: [first, ...byStretch, last], offsets };
}

/** Elements `range` of a tensor that begins at byte `start` of the file. */
function piecesOf(places: readonly Place[], range: Shard, start: number): FilePiece[] {
  const pieces: FilePiece[] = [];
  let element = 0;
  for (const place of places) {
    const count = place.bytes / bytesPerElement;
    const part = intersect({ offset: element, count }, range);
    if (part.count > 0) {
      const byteOffset = place.byteOffset + (part.offset - element) * bytesPerElement;
      const source = { ...place, byteOffset, bytes: part.count * bytesPerElement };
      pieces.push({ fileOffset: start + part.offset * bytesPerElement, source });
    }
    element += count;
  }
  return pieces;
}

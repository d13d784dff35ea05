import { intersect, type Shard } from '../layout.ts';
import type { NativeBuffer, SwapFile } from '../native/contract.ts';

const bytesPerElement = 4;

/** Bytes of a checkpoint's tensor, where they are while training. */
export type Place =
  | { readonly buffer: NativeBuffer; readonly byteOffset: number; readonly bytes: number }
  | { readonly file: SwapFile; readonly byteOffset: number; readonly bytes: number };

/** Elements `range` of the flat buffer as this rank has them: fp32, in memory or on disk. */
export interface HeldPart {
  readonly range: Shard;
  readonly place: Place;
}

/** A buffer that holds `range`. */
export function inMemory(buffer: NativeBuffer, range: Shard): HeldPart {
  return { range, place: { buffer, byteOffset: 0, bytes: range.count * bytesPerElement } };
}

/** Where elements of the flat buffer are, in their order; what no part has is left out. */
export function placesOf(parts: readonly HeldPart[], wanted: Shard): HeldPart[] {
  return parts.flatMap(({ range, place }) => {
    const common = intersect(wanted, range);
    if (common.count === 0) return [];
    const byteOffset = place.byteOffset + (common.offset - range.offset) * bytesPerElement;
    return [
      { range: common, place: { ...place, byteOffset, bytes: common.count * bytesPerElement } },
    ];
  });
}

/** Reads the elements of a place into `values`, or writes them there; blocks where they are on disk. */
export function readPlace(place: Place, values: Float32Array): void {
  if ('file' in place) place.file.read(place.byteOffset, bytesOf(values));
  else values.set(new Float32Array(place.buffer.view(), place.byteOffset, values.length));
}

export function writePlace(place: Place, values: Float32Array): void {
  if ('file' in place) place.file.write(place.byteOffset, bytesOf(values));
  else new Float32Array(place.buffer.view(), place.byteOffset, values.length).set(values);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

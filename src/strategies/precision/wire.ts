import type { Shard } from '../../layout.ts';
import type { FloatType, NativeBuffer, NativeEngine, Region, Work } from '../../native/index.ts';
import type { StorageType } from './precision.ts';

export function elementBytes(type: FloatType): 2 | 4 | 8 {
  return type === 'float64' ? 8 : type === 'float32' ? 4 : 2;
}

/** Elements of a gradient buffer, ready for a collective once `after` has ended. */
export interface Sent {
  readonly region: Region;
  readonly after: Work[];
}

/**
 * What collectives carry instead of the fp32 gradients that backward writes. Elements keep their place:
 * offset i of the gradient buffer is offset i of the wire.
 */
export interface Wire {
  /** The gradients are rounded: what the wire holds differs from what backward wrote. */
  readonly narrows: boolean;
  /** @param after works that must have ended before the elements are read, or their place on the wire is reused */
  send(offset: number, count: number, after: Work[]): Sent;
  /** Elements as they are on the wire. */
  region(offset: number, count: number): Region;
}

/** @param source fp32 gradients; peers read it in place when nothing is rounded */
export function createWire(
  engine: NativeEngine,
  source: NativeBuffer,
  type: StorageType,
  shared: boolean,
): Wire {
  const fp32 = (offset: number, count: number): Region => ({
    buffer: source,
    byteOffset: offset * 4,
    count,
    dtype: 'float32',
  });
  if (type === 'float32') {
    return {
      narrows: false,
      region: fp32,
      send: (offset, count, after) => ({ region: fp32(offset, count), after }),
    };
  }
  const buffer = engine.allocate(source.bytes / 2, {
    category: 'communication',
    shared,
    name: `${type} gradients`,
  });
  const narrow = (offset: number, count: number): Region => ({
    buffer,
    byteOffset: offset * 2,
    count,
    dtype: type,
  });
  return {
    narrows: true,
    region: narrow,
    send(offset, count, after) {
      const region = narrow(offset, count);
      return { region, after: [engine.copy(fp32(offset, count), region, after)] };
    },
  };
}

/** Elements [offset, offset + count) of a region. */
export function stretchOf(region: Region, { offset, count }: Shard): Region {
  const byteOffset = region.byteOffset + offset * elementBytes(region.dtype);
  return { ...region, byteOffset, count };
}

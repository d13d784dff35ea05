import { type FlatLayout, intersect } from '../../layout.ts';
import type { NativeEngine, Region, Work } from '../../native/index.ts';
import { elementBytes } from '../precision/wire.ts';

/**
 * Every rank's shard of `flat` goes to every rank, `bucketSize` elements a collective.
 *
 * @param flat the whole flat buffer, in any type
 * @returns the work after which `flat` is whole
 */
export function gatherShards(
  engine: NativeEngine,
  layout: FlatLayout,
  flat: Region,
  bucketSize: number,
  after: Work,
): Work {
  let last = after;
  for (let offset = 0; offset < layout.total; offset += bucketSize) {
    const bucket = { offset, count: Math.min(bucketSize, layout.total - offset) };
    const shards = layout.shards.map((shard) => {
      const part = intersect(bucket, shard);
      return { offset: part.count === 0 ? 0 : part.offset - offset, count: part.count };
    });
    const byteOffset = flat.byteOffset + offset * elementBytes(flat.dtype);
    last = engine.allGather({ ...flat, byteOffset, count: bucket.count }, shards, [after]);
  }
  return last;
}

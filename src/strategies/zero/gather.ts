import type { FlatLayout } from '../../layout.ts';
import type { NativeEngine, Region, Work } from '../../native/index.ts';
import { bucketShards } from '../buckets.ts';
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
    const byteOffset = flat.byteOffset + offset * elementBytes(flat.dtype);
    const region = { ...flat, byteOffset, count: bucket.count };
    last = engine.allGather(region, bucketShards(bucket, layout), [after]);
  }
  return last;
}

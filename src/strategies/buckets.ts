import type { HostParameter } from '../hooks/index.ts';
import type { FlatLayout, Shard } from '../layout.ts';

/**
 * What one collective carries: whole parameters, contiguous in the flat buffer. `position` counts
 * backward segments from 0 (the last segment of the model) upwards.
 */
export interface Bucket {
  readonly index: number;
  /** Elements of the flat buffer. */
  readonly offset: number;
  readonly count: number;
  readonly parameters: readonly string[];
  /** First backward position that writes into it, and the one after which it is whole. */
  readonly firstPosition: number;
  readonly completePosition: number;
  /** The segment that may be left out and whose gradients alone these are; null for any other bucket. */
  readonly skippable: number | null;
}

/**
 * Fills buckets up to `bucketSize` elements in completion order; a larger parameter goes alone. The
 * last bucket of the buffer also carries its padding.
 *
 * @param skippable segments that a step may leave out: no bucket holds gradients of one and of others
 */
export function planBuckets(
  parameters: readonly HostParameter[],
  layout: FlatLayout,
  segmentCount: number,
  bucketSize: number,
  skippable: ReadonlySet<number> = new Set(),
): Bucket[] {
  const ownerOf = ({ segments: [first] }: HostParameter) => (skippable.has(first!) ? first! : null);
  const buckets: Bucket[] = [];
  let start = 0;
  while (start < parameters.length) {
    let end = start;
    let size = 0;
    let first = Number.POSITIVE_INFINITY;
    let complete = 0;
    const owner = ownerOf(parameters[start]!);
    while (end < parameters.length) {
      const parameter = parameters[end]!;
      const { count } = layout.slots[end]!;
      if (end > start && (size + count > bucketSize || ownerOf(parameter) !== owner)) break;
      size += count;
      first = Math.min(first, segmentCount - 1 - parameter.segments.at(-1)!);
      complete = Math.max(complete, segmentCount - 1 - parameter.segments[0]!);
      end += 1;
    }
    const offset = layout.slots[start]!.offset;
    const next = layout.slots[end]?.offset ?? layout.total;
    buckets.push({
      index: buckets.length,
      offset,
      count: next - offset,
      parameters: parameters.slice(start, end).map((parameter) => parameter.name),
      firstPosition: first,
      completePosition: complete,
      skippable: owner,
    });
    start = end;
  }
  return buckets;
}

/** Every rank's share of a bucket, or of any stretch of the flat buffer, offsets relative to it. */
export function bucketShards(bucket: Shard, layout: FlatLayout): Shard[] {
  return layout.shards.map((shard) => {
    const start = Math.max(bucket.offset, shard.offset);
    const end = Math.min(bucket.offset + bucket.count, shard.offset + shard.count);
    return end > start
      ? { offset: start - bucket.offset, count: end - start }
      : { offset: 0, count: 0 };
  });
}

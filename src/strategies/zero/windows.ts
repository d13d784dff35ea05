import type { Bucket } from '../buckets.ts';
import { firstFit } from './first-fit.ts';

/**
 * Places for the buckets of ZeRO 2. The whole gradient never exists: a bucket has memory from the first
 * backward that writes into it until its reduction has ended, then the place serves another bucket.
 */
export interface WindowPlan {
  /** Elements of the window buffer. */
  readonly size: number;
  /** Element offset by bucket. */
  readonly offsets: readonly number[];
  /** For each bucket, the buckets (itself included) whose memory overlaps its own. */
  readonly overlaps: readonly (readonly number[])[];
}

/**
 * Static first-fit over the buckets' lifetimes. A reduction may run while one more segment computes,
 * so a place is busy for `slack` positions after completion: 1 with overlap, 0 without.
 */
export function planWindows(buckets: readonly Bucket[], slack: number): WindowPlan {
  const { offsets, size } = firstFit(
    buckets.map(({ firstPosition, completePosition, count }) => ({
      first: firstPosition,
      last: completePosition + slack,
      count,
    })),
  );
  const overlaps = buckets.map((bucket) =>
    buckets
      .filter((other) => {
        const [a, b] = [offsets[bucket.index]!, offsets[other.index]!];
        return a < b + other.count && b < a + bucket.count;
      })
      .map((other) => other.index),
  );
  return { size, offsets, overlaps };
}

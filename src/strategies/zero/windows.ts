import { alignUp, slotAlignment } from '../../layout.ts';
import type { Bucket } from '../buckets.ts';

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
  const placed: { bucket: Bucket; start: number; end: number }[] = [];
  const offsets = new Array<number>(buckets.length).fill(0);
  let size = 0;
  // Longest-lived first: a tied embedding spans the whole backward and must not fragment the rest.
  const order = [...buckets].sort(
    (a, b) => lifetime(b) - lifetime(a) || b.count - a.count || a.index - b.index,
  );
  for (const bucket of order) {
    const rivals = placed
      .filter(({ bucket: other }) => meet(bucket, other, slack))
      .sort((a, b) => a.start - b.start);
    let start = 0;
    for (const rival of rivals) {
      if (start + bucket.count <= rival.start) break;
      start = Math.max(start, rival.end);
    }
    const end = alignUp(start + bucket.count, slotAlignment);
    placed.push({ bucket, start, end });
    offsets[bucket.index] = start;
    size = Math.max(size, end);
  }
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

function lifetime(bucket: Bucket): number {
  return bucket.completePosition - bucket.firstPosition;
}

function meet(a: Bucket, b: Bucket, slack: number): boolean {
  return (
    a.firstPosition <= b.completePosition + slack && b.firstPosition <= a.completePosition + slack
  );
}

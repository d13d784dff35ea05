import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { HostParameter } from '../../hooks/index.ts';
import { flatLayout } from '../../layout.ts';
import { bucketShards, planBuckets } from '../buckets.ts';
import { planWindows } from './windows.ts';

/** A model as the host orders it: by the segment that completes the gradient, the last one first. */
const model = fc
  .record({
    segmentCount: fc.integer({ min: 1, max: 8 }),
    ranks: fc.integer({ min: 1, max: 5 }),
    bucketSize: fc.integer({ min: 1, max: 400 }),
    seeds: fc.array(
      fc.record({
        size: fc.integer({ min: 1, max: 300 }),
        uses: fc.array(fc.nat(7), { minLength: 1, maxLength: 3 }),
      }),
      { minLength: 1, maxLength: 24 },
    ),
  })
  .map(({ segmentCount, ranks, bucketSize, seeds }) => {
    const parameters = seeds
      .map(({ size, uses }, index): HostParameter => {
        const segments = [...new Set(uses.map((use) => use % segmentCount))].sort((a, b) => a - b);
        return { name: `p${index}`, shape: [size], segments, group: 0 };
      })
      .sort((a, b) => b.segments[0]! - a.segments[0]!);
    const layout = flatLayout(parameters, ranks);
    const buckets = planBuckets(parameters, layout, segmentCount, bucketSize);
    return { segmentCount, bucketSize, parameters, layout, buckets };
  });

it('buckets partition the buffer and hold whole parameters, no more than asked for', () => {
  fc.assert(
    fc.property(model, ({ parameters, layout, buckets, bucketSize }) => {
      expect(buckets.flatMap((bucket) => bucket.parameters)).toEqual(
        parameters.map(({ name }) => name),
      );
      let end = 0;
      for (const bucket of buckets) {
        expect(bucket.offset).toBe(end);
        end += bucket.count;
        const sizes = bucket.parameters.map((name) => layout.byName.get(name)!.count);
        const size = sizes.reduce((a, b) => a + b, 0);
        expect(size <= bucketSize || sizes.length === 1).toBe(true);
      }
      expect(end).toBe(layout.total);
    }),
  );
});

it('a bucket is whole exactly when its last segment has run backward', () => {
  fc.assert(
    fc.property(model, ({ parameters, buckets, segmentCount }) => {
      const byName = new Map(parameters.map((parameter) => [parameter.name, parameter]));
      for (const bucket of buckets) {
        const positions = bucket.parameters
          .flatMap((name) => byName.get(name)!.segments)
          .map((segment) => segmentCount - 1 - segment);
        expect(bucket.firstPosition).toBe(Math.min(...positions));
        expect(bucket.completePosition).toBe(Math.max(...positions));
      }
    }),
  );
});

it("the ranks' shares of a bucket cover it once", () => {
  fc.assert(
    fc.property(model, ({ layout, buckets }) => {
      for (const bucket of buckets) {
        const covered = new Uint8Array(bucket.count);
        for (const { offset, count } of bucketShards(bucket, layout)) {
          for (let at = offset; at < offset + count; at += 1) covered[at]! += 1;
        }
        expect(covered.every((times) => times === 1)).toBe(true);
      }
    }),
  );
});

const slackOf = (overlap: boolean, segmentCount: number) => (overlap ? 1 : segmentCount);

it('windows of buckets that live at the same time never overlap', () => {
  fc.assert(
    fc.property(model, fc.boolean(), ({ buckets, segmentCount }, overlap) => {
      const slack = slackOf(overlap, segmentCount);
      const { offsets, size } = planWindows(buckets, slack);
      // Who owns each element at each position of backward; reductions end `slack` later.
      for (let position = 0; position < segmentCount + slack; position += 1) {
        const owner = new Int32Array(size).fill(-1);
        for (const bucket of buckets) {
          const alive =
            bucket.firstPosition <= position && position <= bucket.completePosition + slack;
          if (!alive) continue;
          const start = offsets[bucket.index]!;
          expect(start + bucket.count).toBeLessThanOrEqual(size);
          const end = start + bucket.count;
          expect(owner.subarray(start, end).every((one) => one === -1)).toBe(true);
          owner.fill(bucket.index, start, end);
        }
      }
    }),
    { numRuns: 50 },
  );
});

it('overlaps name every bucket whose reduction a new one must wait for', () => {
  fc.assert(
    fc.property(model, fc.boolean(), ({ buckets, segmentCount }, overlap) => {
      const { offsets, overlaps } = planWindows(buckets, slackOf(overlap, segmentCount));
      const stretch = (index: number) => {
        const start = offsets[index]!;
        return Array.from({ length: buckets[index]!.count }, (_, at) => start + at);
      };
      for (const { index } of buckets) {
        const own = new Set(stretch(index));
        const expected = buckets
          .filter((other) => stretch(other.index).some((at) => own.has(at)))
          .map((other) => other.index);
        // Itself included: the same bucket of the micro batch before.
        expect([...overlaps[index]!]).toEqual(expected);
        expect(expected).toContain(index);
      }
    }),
    { numRuns: 50 },
  );
});

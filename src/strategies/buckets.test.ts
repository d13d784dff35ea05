import { expect, it } from 'vitest';
import type { HostParameter } from '../hooks/index.ts';
import { flatLayout } from '../layout.ts';
import { planBuckets } from './buckets.ts';

// An embedding, three layers of two parameters each, a head; backward completes them from the end.
const parameters: HostParameter[] = [4, 3, 3, 2, 2, 1, 1, 0].map((segment, i) => ({
  name: `parameter ${i}`,
  shape: [100 + i],
  segments: [segment],
  group: 0,
}));
const layout = flatLayout(parameters, 2);
const plan = (bucketSize: number, skippable?: ReadonlySet<number>) =>
  planBuckets(parameters, layout, 5, bucketSize, skippable);

it('a bucket larger than the model holds everything', () => {
  expect(plan(1e9).map((bucket) => bucket.parameters.length)).toEqual([8]);
});

it('but no bucket holds gradients of a layer that may be dropped and of anything else', () => {
  const buckets = plan(1e9, new Set([2, 3]));
  expect(buckets.map(({ skippable }) => skippable)).toEqual([null, 3, 2, null]);
  expect(buckets.map((bucket) => bucket.parameters.length)).toEqual([1, 2, 2, 3]);
});

it.each([1, 150, 250, 1e9])('buckets of %i are the whole buffer, one after the other', (size) => {
  const buckets = plan(size, new Set([1, 2, 3]));
  let offset = 0;
  for (const bucket of buckets) {
    expect(bucket.offset).toBe(offset);
    offset += bucket.count;
  }
  expect(offset).toBe(layout.total);
  expect(buckets.flatMap((bucket) => bucket.parameters)).toEqual(
    parameters.map(({ name }) => name),
  );
});

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { DistributedSampler, type SamplerOptions } from './sampler.ts';

type Sizes = Pick<SamplerOptions, 'microBatchSize' | 'microBatches' | 'worldSize'>;

const sizes: fc.Arbitrary<Sizes> = fc.record({
  microBatchSize: fc.integer({ min: 1, max: 4 }),
  microBatches: fc.integer({ min: 1, max: 3 }),
  worldSize: fc.integer({ min: 1, max: 5 }),
});
const seed = fc.nat();

function samplers(length: number, of: Sizes, more: Partial<SamplerOptions> = {}) {
  return Array.from(
    { length: of.worldSize },
    (_, rank) =>
      new DistributedSampler({
        length,
        ...of,
        rank,
        seed: 1,
        shuffle: true,
        dropLast: false,
        ...more,
      }),
  );
}

/** Samples of one global batch over all ranks, micro batch by micro batch. */
function globalBatch(ranks: DistributedSampler[], epoch: number, step: number): number[] {
  const parts = ranks.map((sampler) => sampler.batch(epoch, step * sampler.globalBatchSize));
  return parts[0]!.flatMap((_, microBatch) => parts.flatMap((own) => own[microBatch]!));
}

const all = (length: number) => Array.from({ length }, (_, index) => index);

it('every sample comes once an epoch, at any number of ranks and micro batches', () => {
  fc.assert(
    fc.property(sizes, seed, fc.nat(30), fc.nat(3), (of, seed, extra, epoch) => {
      const length = of.microBatchSize * of.microBatches * of.worldSize + extra;
      const ranks = samplers(length, of, { seed });
      const seen = all(ranks[0]!.stepsPerEpoch).flatMap((step) => globalBatch(ranks, epoch, step));
      expect(seen.toSorted((a, b) => a - b)).toEqual(all(length));
    }),
  );
});

it('global batches are the same however they are dealt out', () => {
  fc.assert(
    fc.property(sizes, seed, fc.nat(30), (of, seed, extra) => {
      const size = of.microBatchSize * of.microBatches * of.worldSize;
      const alone = samplers(
        size + extra,
        { microBatchSize: size, microBatches: 1, worldSize: 1 },
        { seed },
      );
      const ranks = samplers(size + extra, of, { seed });
      expect(ranks[0]!.stepsPerEpoch).toBe(alone[0]!.stepsPerEpoch);
      for (const step of all(alone[0]!.stepsPerEpoch)) {
        expect(globalBatch(ranks, 1, step)).toEqual(globalBatch(alone, 1, step));
      }
    }),
  );
});

it('every sample comes once an epoch in which the size of global batches changes', () => {
  const steps = fc.nat(10);
  fc.assert(
    fc.property(
      sizes,
      sizes,
      steps,
      fc.nat(60),
      fc.boolean(),
      (before, after, taken, extra, dropLast) => {
        const sizeOf = (of: Sizes) => of.microBatchSize * of.microBatches * of.worldSize;
        const length = sizeOf(before) + sizeOf(after) + extra;
        const seen: number[] = [];
        let start = 0;
        const take = (of: Sizes, most: number) => {
          const ranks = samplers(length, of, { dropLast });
          for (let step = 0; step < most && !ranks[0]!.isOver(start); step += 1) {
            const parts = ranks.map((sampler) => sampler.batch(2, start));
            seen.push(...parts.flat(2));
            start += sizeOf(of);
          }
        };
        take(before, taken);
        take(after, Number.POSITIVE_INFINITY);
        expect(new Set(seen).size).toBe(seen.length);
        const left = length - seen.length;
        expect(left).toBeLessThan(dropLast ? Math.max(sizeOf(before), sizeOf(after)) : 1);
      },
    ),
  );
});

it('no rank gets more than its rows, and only the last global batch has fewer', () => {
  fc.assert(
    fc.property(sizes, fc.nat(30), fc.boolean(), (of, extra, dropLast) => {
      const size = of.microBatchSize * of.microBatches * of.worldSize;
      for (const sampler of samplers(size + extra, of, { dropLast })) {
        for (const step of all(sampler.stepsPerEpoch)) {
          const parts = sampler.batch(0, step * size);
          expect(parts).toHaveLength(of.microBatches);
          const isLast = !dropLast && step === sampler.stepsPerEpoch - 1;
          for (const part of parts) {
            if (isLast) expect(part.length).toBeLessThanOrEqual(of.microBatchSize);
            else expect(part).toHaveLength(of.microBatchSize);
          }
        }
      }
    }),
  );
});

it('epochs and seeds have orders of their own, which never change', () => {
  const order = (seed: number, epoch: number) => {
    const of = { microBatchSize: 100, microBatches: 1, worldSize: 1 };
    return samplers(100, of, { seed })[0]!.batch(epoch, 0)[0]!;
  };
  expect(order(1, 0)).toEqual(order(1, 0));
  expect(order(1, 0)).not.toEqual(order(1, 1));
  expect(order(1, 0)).not.toEqual(order(2, 0));
  // A checkpoint's position means these samples on every machine and in every version.
  expect(order(42, 0).slice(0, 8)).toMatchInlineSnapshot(`
    [
      77,
      14,
      25,
      69,
      93,
      46,
      10,
      73,
    ]
  `);
});

it.each([
  [0, 'DATASET_EMPTY', /no samples/],
  [
    11,
    'DATASET_TOO_SMALL',
    /11 samples, one global batch takes 12 \(micro batch 2 x accumulation 3 x ranks 2\)/,
  ],
])('a dataset of %i samples is refused', (length, code, message) => {
  expect(() => samplers(length, { microBatchSize: 2, microBatches: 3, worldSize: 2 })).toThrow(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  );
});

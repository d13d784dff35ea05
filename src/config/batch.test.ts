import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type PartialBatchSizes, solveBatch } from './batch.ts';
import type { Problem } from './problem.ts';

function sizes(
  train: number | null,
  micro: number | null,
  accumulation: number | null,
): PartialBatchSizes {
  return {
    train_batch_size: train,
    train_micro_batch_size_per_gpu: micro,
    gradient_accumulation_steps: accumulation,
  };
}

const count = fc.integer({ min: 1, max: 64 });

describe('the batch triangle', () => {
  it('recovers every consistent triple from any two of its sizes', () => {
    fc.assert(
      fc.property(count, count, count, (micro, accumulation, worldSize) => {
        const train = micro * accumulation * worldSize;
        const whole = sizes(train, micro, accumulation);
        for (const given of [
          whole,
          sizes(null, micro, accumulation),
          sizes(train, null, accumulation),
          sizes(train, micro, null),
        ])
          expect(solveBatch(given, worldSize)).toEqual(whole);
      }),
    );
  });

  it('takes one accumulation step where only one size is given', () => {
    expect(solveBatch(sizes(12, null, null), 4)).toEqual(sizes(12, 3, 1));
    expect(solveBatch(sizes(null, 3, null), 4)).toEqual(sizes(12, 3, 1));
  });

  it('never invents sizes that do not multiply', () => {
    const maybe = fc.option(count);
    fc.assert(
      fc.property(maybe, maybe, maybe, count, (train, micro, accumulation, worldSize) => {
        const given = sizes(train, micro, accumulation);
        const solved = solveBatch(given, worldSize);
        if ('kind' in solved) return;
        expect(solved.train_batch_size).toBe(
          solved.train_micro_batch_size_per_gpu * solved.gradient_accumulation_steps * worldSize,
        );
        for (const [name, value] of Object.entries(given))
          if (value !== null) expect(solved[name as keyof typeof solved]).toBe(value);
      }),
    );
  });

  it('prints all the factors of an impossible product, and what would do', () => {
    const problem = solveBatch(sizes(10, 2, 2), 3) as Problem;
    expect(problem.expected).toContain('train_batch_size 10 is not');
    expect(problem.expected).toContain(
      'micro_batch_size_per_gpu 2 × gradient_accumulation_steps 2 × 3 ranks = 12',
    );
    expect(problem.expected).toContain('train_batch_size 12 would do');
    const derived = solveBatch(sizes(10, null, null), 4) as Problem;
    expect(derived.expected).toContain('train_micro_batch_size_per_gpu 2, derived');
    expect(derived.expected).toContain('8 or 12 would do');
    expect((solveBatch(sizes(1, null, null), 2) as Problem).expected).toContain(
      'train_batch_size 2 would do',
    );
  });

  it('asks for a size when there is none', () => {
    for (const given of [sizes(null, null, null), sizes(null, null, 4)])
      expect((solveBatch(given, 2) as Problem).expected).toContain('give train_batch_size');
  });
});

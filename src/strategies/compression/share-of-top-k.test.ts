/** The shares of a warm-up, by hand. */
import { expect, test } from 'vitest';
import { shareOfTopK } from './share-of-top-k.ts';

const shares = (ratio: number, warmupSteps: number, steps: number) =>
  Array.from({ length: steps }, (_, step) =>
    shareOfTopK({ startStep: 2, warmupSteps, ratio }, step),
  );

test.each([
  // Three stages before 1%: 4⁻⁴ is below it.
  [0.01, 6, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 16, 1 / 16, 1 / 64, 1 / 64, 0.01, 0.01]],
  [0.1, 3, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 0.1]],
  // Fewer steps than stages: some are left out.
  [0.01, 2, [1 / 4, 1 / 4, 1 / 4, 1 / 16, 0.01]],
  [0.01, 0, [0.01, 0.01, 0.01]],
  // Nothing to fall from.
  [0.25, 4, [0.25, 0.25, 0.25, 0.25]],
  [1, 4, [1, 1, 1, 1]],
])('to %d in %d steps after two', (ratio, warmupSteps, expected) => {
  expect(shares(ratio, warmupSteps, expected.length)).toEqual(expected);
});

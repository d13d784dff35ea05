import { expect, it } from 'vitest';
import { shareOf, verifySum } from './sum.ts';

it('a sum is that of all shares, or names the first element that is not', () => {
  const members = 5;
  const shares = Array.from({ length: members }, (_, member) => shareOf(member));
  const sums = new Float32Array(9).fill(shares.reduce((sum, share) => sum + share, 0));
  verifySum(sums, members);
  // Without any one of them it is another.
  for (const share of shares) {
    const without = sums.slice();
    without[4]! -= share;
    expect(() => verifySum(without, members)).toThrow('element 4 of the sum is');
  }
});

import { describe, expect, it } from 'vitest';
import { allowedCores, bindingPlan, parseCoreList, splitCores } from './cores.ts';

describe('core lists', () => {
  it.each([
    ['0', [0]],
    ['0-3,8', [0, 1, 2, 3, 8]],
    ['8, 2-3 ,2', [2, 3, 8]],
  ])('%s', (list, cores) => expect(parseCoreList(list)).toEqual(cores));

  it.each(['', '3-1', 'a', '1,,2', '-1', '1-2-3'])('refuses "%s"', (list) => {
    expect(() => parseCoreList(list)).toThrow('is not a list of cores');
  });
});

describe('splitCores', () => {
  it('gives every core to exactly one rank, in order, in shares that differ by at most one', () => {
    for (let count = 1; count <= 17; count++) {
      const cores = Array.from({ length: count }, (_, index) => 2 * index);
      for (let ranks = 1; ranks <= count; ranks++) {
        const shares = splitCores(cores, ranks);
        expect(shares.flat()).toEqual(cores);
        const sizes = shares.map((share) => share.length);
        expect(shares).toHaveLength(ranks);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }
    }
  });

  it('refuses more ranks than cores', () => {
    expect(() => splitCores([0, 1], 3)).toThrow('3 ranks cannot be bound to 2 cores (0,1)');
  });
});

it('bindingPlan uses only cores that this process may use', () => {
  const allowed = allowedCores();
  expect(allowed.length).toBeGreaterThan(0);
  expect(bindingPlan(1, null)).toEqual([allowed]);
  expect(bindingPlan(1, String(allowed[0]))).toEqual([[allowed[0]]]);
  expect(() => bindingPlan(1, `${allowed[0]},100000`)).toThrow('may not use: 100000');
});

/** Real data, unchanged scripts: ranks reach the accuracy of one process. And the wasm backend. */
import { expect, it } from 'vitest';
import { alone, difference, overRanks } from './tfjs.run.ts';

it.each([
  ['digits', 0.8],
  ['mail', 0.85],
])('%s', async (task, wanted) => {
  const one = (await alone('real.cjs', task)) as { result: [number, number] };
  const two = (await overRanks(2, 'real.cjs', [task])).results() as typeof one;
  expect(one.result[1]).toBeGreaterThan(wanted);
  // A prediction at the border may fall to the other side.
  expect(Math.abs(two.result[1] - one.result[1])).toBeLessThanOrEqual(0.01);
  expect(difference(one.result[0], two.result[0])).toBeLessThan(0.02);
});

it('the wasm backend trains the same', async () => {
  const one = await alone('wasm.cjs');
  for (const ranks of [1, 2]) {
    const many = (await overRanks(ranks, 'wasm.cjs')).results();
    expect(difference(one, many)).toBeLessThan(1e-4);
  }
});

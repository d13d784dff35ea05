import { expect, it } from 'vitest';
import { atMost } from './patience.ts';

const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

it('waits for work that ends, and leaves no clock behind that holds the process', async () => {
  const before = timers();
  await atMost(600_000, Promise.resolve());
  await expect(atMost(600_000, Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(timers()).toBe(before);
});

it('gives up on work that does not', async () => {
  await atMost(1, new Promise(() => {}));
});

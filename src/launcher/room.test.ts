import { expect, it } from 'vitest';
import { requireRoom } from './room.ts';

const gib = 2 ** 30;
const laptop = { cores: 2, memoryAvailable: 12 * gib };

it('a few ranks a core have room, and with --oversubscribe as many as memory holds', () => {
  for (const ranks of [1, 2, 8, 64]) expect(() => requireRoom(ranks, laptop, false)).not.toThrow();
  for (const ranks of [65, 512]) expect(() => requireRoom(ranks, laptop, true)).not.toThrow();
  // Where nothing is free, one rank may still try.
  expect(() => requireRoom(1, { cores: 1, memoryAvailable: 0 }, false)).not.toThrow();
});

it('more than that are refused, with the numbers that fit and how to insist', () => {
  expect(() => requireRoom(65, laptop, false)).toThrow(
    expect.objectContaining({
      code: 'LAUNCHER_USAGE',
      message: '65 ranks are more than 32 for each of the 2 cores of this machine: 64',
      fix: 'Use --num_procs 2. Should more than 64 be meant, say --oversubscribe: memory holds at most 512.',
    }),
  );
  for (const oversubscribe of [false, true]) {
    expect(() => requireRoom(513, laptop, oversubscribe)).toThrow(
      expect.objectContaining({
        code: 'OUT_OF_MEMORY',
        message:
          '513 ranks need 12.02 GiB before their scripts load anything; 12.00 GiB are free, enough for 512',
        fix: 'Use --num_procs 2: this machine has 2 cores.',
      }),
    );
  }
});

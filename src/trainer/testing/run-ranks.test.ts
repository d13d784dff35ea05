/** Ranks as threads: what becomes of one that dies between two runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { runRanks } from './run-ranks.ts';

it('the run after it is told at once why a kept thread died', { timeout: 20_000 }, async () => {
  const fixture = new URL('./dying.fixture.ts', import.meta.url);
  const play = (task: 'die' | 'wait' | 'live') => runRanks(fixture, 1, task);
  expect(await play('die')).toEqual(['done']);
  // Dead by now, most likely; where it dies a little later, the same is told.
  await sleep(200);
  await expect(play('wait')).rejects.toThrow('too late');
  expect(await play('live')).toEqual(['done']);
});

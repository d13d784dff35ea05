import { expect, it } from 'vitest';
import { attemptRanks } from '../trainer/testing/run-ranks.ts';
import type { AgreeTask } from './testing/agree.fixture.ts';

const fixture = new URL('./testing/agree.fixture.ts', import.meta.url);

const play = (scenario: AgreeTask['scenario'], worldSize: number, hangTimeoutMs = 60_000) =>
  attemptRanks<AgreeTask, unknown>(fixture, worldSize, {
    scenario,
    hangTimeoutMs,
    signal: new SharedArrayBuffer(4),
  });

it.each([1, 3])('values of any length come from %i ranks, in rank order', async (worldSize) => {
  const ranks = Array.from({ length: worldSize }, (_, rank) => rank);
  const value = {
    text: ranks.map((rank) => 'é'.repeat(rank) + 'x'.repeat(rank)),
    mixed: ranks.map((rank) => (rank === 0 ? [] : { rank, nested: { list: [1, null] } })),
    lengths: ranks.map((rank) => rank * 100_001),
    blocking: ranks.map((of) => ({ of })),
    first: 'of 0',
  };
  expect(await play('gather', worldSize)).toEqual(ranks.map(() => ({ value })));
});

it("a failure on some ranks is the first one's error on all; that one keeps its own", async () => {
  const [first, ...failed] = await play('failure', 3);
  expect(first!.error).toEqual({ code: 'PEER_FAILED', message: 'rank 1: no 1', fix: 'mend it' });
  expect(failed[0]!.error).toEqual({ code: 'X', message: 'no 1', fix: 'mend it' });
  expect(failed[1]!.error).toEqual({
    code: 'PEER_FAILED',
    message: 'rank 1: no 1',
    fix: 'mend it',
  });
});

it('timers fire while a peer takes its time', async () => {
  expect(await play('timers', 2)).toEqual([{ value: [0, 1] }, { value: [0, 1] }]);
});

it("a peer that never comes is named when the run's patience ends", async () => {
  const [waiting] = await play('absent', 2, 300);
  expect(waiting!.error).toMatchObject({ message: expect.stringMatching(/^rank 1 has not come/) });
});

it('a peer that leaves ends the wait with its reason', async () => {
  const [waiting] = await play('leaves', 2);
  expect(waiting!.error!.message).toContain('rank 1 had enough');
});

it('nothing stays in memory', async () => {
  expect(await play('memory', 2)).toEqual([{ value: 0 }, { value: 0 }]);
});

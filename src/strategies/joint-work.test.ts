import { describe, expect, it } from 'vitest';
import type { Peers } from './agree.ts';
import { JointWork, type Parts } from './joint-work.ts';

/** One rank, which has nobody to ask. */
const alone = { communicator: { rank: 0, size: 1 } } as unknown as Peers;

function* parts(first: Promise<number>, begun: string[]): Parts<string> {
  const [number] = (yield first) as [number];
  begun.push('second');
  yield Promise.resolve();
  return `got ${number}`;
}

describe('work in parts', () => {
  it('is ready when its part has ended, and begins the next when asked to', async () => {
    const begun: string[] = [];
    let end: (value: number) => void = () => {};
    const work = new JointWork(alone, parts(new Promise((resolve) => (end = resolve)), begun));
    await Promise.resolve();
    expect(work.isReady).toBe(false);
    const going = work.proceed();
    end(7);
    expect(await going).toBe(null);
    expect(begun).toEqual(['second']);
    await Promise.resolve();
    expect(work.isReady).toBe(true);
    expect(await work.proceed()).toEqual({ result: 'got 7' });
  });

  it('is ready when it has failed, which is told by who proceeds, as often as it is asked', async () => {
    const work = new JointWork(alone, parts(Promise.reject(new Error('a full disk')), []));
    await Promise.resolve();
    expect(work.isReady).toBe(true);
    for (let time = 0; time < 2; time++) {
      await expect(work.proceed()).rejects.toThrow('a full disk');
    }
  });
});

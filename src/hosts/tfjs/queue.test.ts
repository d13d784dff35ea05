/** Trainings in a queue: one at a time, those that a training starts itself at once, and those that wait for ever. */
import { queryObjects } from 'node:v8';
import { expect, it } from 'vitest';
import { TrainingQueue } from './queue.ts';

const patienceMs = 1e9;
const silent = () => {};
/** A training that notes its steps, and goes on when it is told. */
function training(log: string[], name: string, middle: () => unknown = () => {}) {
  return async () => {
    log.push(`${name} begins`);
    await middle();
    log.push(`${name} ends`);
    return name;
  };
}

it('runs one after the other over ranks, and as they come on one', async () => {
  for (const [worldSize, order] of [
    [2, ['a begins', 'a ends', 'b begins', 'b ends']],
    [1, ['a begins', 'b begins', 'a ends', 'b ends']],
  ] as const) {
    const queue = new TrainingQueue(worldSize, patienceMs, silent);
    const log: string[] = [];
    const results = ['a', 'b'].map((name) => queue.run(name, training(log, name)));
    expect(await Promise.all(results)).toEqual(['a', 'b']);
    expect(log).toEqual(order);
  }
});

it('what a training starts itself runs inside of it', async () => {
  const queue = new TrainingQueue(2, patienceMs, silent);
  const log: string[] = [];
  const outer = queue.run(
    'a',
    training(log, 'a', () => queue.run('b', training(log, 'b'))),
  );
  await Promise.all([outer, queue.run('c', training(log, 'c'))]);
  expect(log).toEqual(['a begins', 'b begins', 'b ends', 'a ends', 'c begins', 'c ends']);
});

it('one that waits for another one behind it is told who waits for whom; the others keep their turns', async () => {
  const queue = new TrainingQueue(2, patienceMs, silent);
  const log: string[] = [];
  const first = queue.run(
    'a',
    training(log, 'a', () => second.catch(({ message }) => log.push(message))),
  );
  const second = queue.run('b', training(log, 'b'));
  const third = queue.run('c', training(log, 'c'));
  await new Promise(setImmediate);
  expect(log).toEqual(['a begins']);
  queue.idle();
  await Promise.all([first, third]);
  expect(log).toEqual([
    'a begins',
    expect.stringContaining('b waits until a has ended, which itself waits'),
    'a ends',
    'c begins',
    'c ends',
  ]);
  expect(queue.idle()).toBe(false);
});

it('where the one behind it is innocent, the next one is told', async () => {
  const queue = new TrainingQueue(2, patienceMs, silent);
  const first = queue.run(
    'a',
    training([], 'a', () => third.catch(() => {})),
  );
  const second = queue.run('b', training([], 'b'));
  const third = queue.run('c', training([], 'c'));
  const all = Promise.allSettled([first, second, third]);
  await new Promise(setImmediate);
  for (const name of ['b', 'c']) {
    expect(queue.idle(), name).toBe(true);
    await new Promise(setImmediate);
  }
  expect(await all).toMatchObject([
    { value: 'a' },
    { reason: { data: { running: 'a', waiting: 'b' } } },
    { reason: { data: { running: 'a', waiting: 'c' } } },
  ]);
  expect(queue.idle()).toBe(false);
});

it('one that nobody behind it keeps, and never ends, is an error', async () => {
  const queue = new TrainingQueue(2, patienceMs, silent);
  void queue.run(
    'a',
    training([], 'a', () => new Promise(() => {})),
  );
  await new Promise(setImmediate);
  expect(() => queue.idle()).toThrow('a has not ended, and nothing is left to do');
});

it('one that takes its time is waited for, and both are named', async () => {
  const log: string[] = [];
  let goOn!: (text: string) => void;
  const said = new Promise<string>((resolve) => {
    goOn = resolve;
  });
  const queue = new TrainingQueue(2, 20, goOn);
  const busy = setInterval(() => {}, 1000);
  const first = queue.run(
    'a',
    training(log, 'a', () => said),
  );
  await Promise.all([first, queue.run('b', training(log, 'b'))]);
  clearInterval(busy);
  expect(await said).toContain('b waits until a has ended, which has taken no step for 0.02 s');
  expect(log).toEqual(['a begins', 'a ends', 'b begins', 'b ends']);
});

it('keeps nothing of trainings that have ended', async () => {
  const queue = new TrainingQueue(2, patienceMs, silent);
  const arrays = () => queryObjects(Array, { format: 'count' });
  const before = arrays();
  for (let at = 0; at < 1000; at += 1) await queue.run('a', async () => {});
  expect(arrays() - before).toBeLessThan(500);
});

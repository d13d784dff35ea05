/** Trainings in a queue: one at a time, those that a training starts itself at once, and those that wait for ever. */
import { expect, it } from 'vitest';
import { TrainingQueue } from './queue.ts';

const patienceMs = 1e9;
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
    const queue = new TrainingQueue(worldSize, patienceMs);
    const log: string[] = [];
    const results = ['a', 'b'].map((name) => queue.run(name, training(log, name)));
    expect(await Promise.all(results)).toEqual(['a', 'b']);
    expect(log).toEqual(order);
  }
});

it('what a training starts itself runs inside of it', async () => {
  const queue = new TrainingQueue(2, patienceMs);
  const log: string[] = [];
  const outer = queue.run(
    'a',
    training(log, 'a', () => queue.run('b', training(log, 'b'))),
  );
  await Promise.all([outer, queue.run('c', training(log, 'c'))]);
  expect(log).toEqual(['a begins', 'b begins', 'b ends', 'a ends', 'c begins', 'c ends']);
});

it('one that waits for another one behind it is told who waits for whom; the others keep their turns', async () => {
  const queue = new TrainingQueue(2, patienceMs);
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
  queue.idle();
});

it('so it is where something keeps the process busy', async () => {
  const queue = new TrainingQueue(2, 20);
  const busy = setInterval(() => {}, 1000);
  const first = queue.run(
    'a',
    training([], 'a', () => second),
  );
  const second = queue.run('b', training([], 'b'));
  await expect(first).rejects.toThrow('b waits until a has ended');
  clearInterval(busy);
});

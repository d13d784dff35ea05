import { expect, it } from 'vitest';
import { BeingSaved } from './being-saved.ts';

const range = (offset: number, end: number) => ({ offset, count: end - offset });

/** A rank's shard, [100, 200), in three stretches. */
function saving(): BeingSaved {
  const saved = new BeingSaved();
  saved.begin(7, [
    { range: range(100, 140), read: 1 },
    { range: range(140, 180), read: 2 },
    { range: range(180, 200), read: 3 },
  ]);
  return saved;
}

it('what changes waits for the stretches that it touches', () => {
  const saved = saving();
  expect(saved.before(range(100, 140))).toEqual([1]);
  expect(saved.before(range(139, 181))).toEqual([1, 2, 3]);
  expect(saved.before(range(0, 100))).toEqual([]);
  expect(saved.local).toEqual([7]);
});

it('an update is divided where stretches meet, and covers every element once', () => {
  const saved = saving();
  expect(saved.divide(range(50, 250))).toEqual([
    { range: range(50, 100), after: [] },
    { range: range(100, 140), after: [1] },
    { range: range(140, 180), after: [2] },
    { range: range(180, 200), after: [3] },
    { range: range(200, 250), after: [] },
  ]);
  expect(saved.divide(range(110, 150))).toEqual([
    { range: range(110, 140), after: [1] },
    { range: range(140, 150), after: [2] },
  ]);
});

it('with nothing to wait for it is whole', () => {
  expect(new BeingSaved().divide(range(0, 10))).toEqual([{ range: range(0, 10), after: [] }]);
  const saved = saving();
  saved.end();
  expect(saved.divide(range(100, 200))).toEqual([{ range: range(100, 200), after: [] }]);
  expect(saved.local).toEqual([]);
});

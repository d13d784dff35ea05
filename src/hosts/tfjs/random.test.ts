/** `Math.random` of a rank: shared and local draws, drawing again, and functions that a script puts in its place. */
import { setFlagsFromString } from 'node:v8';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { RandomStreams } from './random.ts';

const original = Math.random;
let streams: RandomStreams;
beforeEach(() => {
  streams = new RandomStreams(7, 1);
  streams.install();
});
afterEach(() => {
  Math.random = original;
});

const draws = (count: number) => Array.from({ length: count }, () => Math.random());
/** 0, 1, 2 and so on. */
const counting = () => {
  let next = 0;
  return () => next++;
};

it('ranks draw alike, but for what they draw locally', () => {
  const own = draws(3);
  const local = streams.locally(() => draws(3));
  const other = new RandomStreams(7, 0);
  other.install();
  expect(draws(3)).toEqual(own);
  expect(other.locally(() => draws(3))).not.toEqual(local);
  expect(new Set([...own, ...local]).size).toBe(6);
});

it('draws a stretch again, and goes on behind it', () => {
  Math.random = counting();
  expect(draws(2)).toEqual([0, 1]);
  expect(streams.follow()).toBe(true);
  streams.shared.record();
  expect(draws(3)).toEqual([2, 3, 4]);
  streams.shared.rewind();
  expect(draws(3)).toEqual([2, 3, 4]);
  streams.shared.rewind();
  expect(draws(1)).toEqual([2]);
  streams.shared.stop();
  expect(draws(3)).toEqual([3, 4, 5]);
});

it("a script's own function decides what is shared, and not what is local", () => {
  const before = Math.random;
  Math.random = counting();
  expect(draws(2)).toEqual([0, 1]);
  expect(streams.locally(() => draws(1))[0]).toBeLessThan(1);
  expect(draws(1)).toEqual([2]);
  Math.random = before;
  const other = new RandomStreams(7, 1);
  const shared = draws(2);
  other.install();
  expect(draws(2)).toEqual(shared);
});

it('a function that calls the one it replaces draws once', () => {
  const before = Math.random;
  let calls = 0;
  Math.random = () => {
    calls += 1;
    return before() / 2;
  };
  streams.follow();
  streams.shared.record();
  const halves = draws(2);
  streams.shared.rewind();
  expect(draws(2)).toEqual(halves);
  expect(calls).toBe(2);
});

it('what is to be drawn again belongs to the function that drew it', () => {
  const ours = Math.random;
  streams.shared.record();
  const drawn = draws(2);
  streams.shared.rewind();
  streams.shared.stop();
  Math.random = counting();
  expect(streams.follow()).toBe(true);
  expect(draws(2)).toEqual([0, 1]);
  Math.random = ours;
  expect(streams.follow()).toBe(false);
  expect(draws(2)).toEqual(drawn);
});

it('leaves Math as fast as it was', () => {
  setFlagsFromString('--allow-natives-syntax');
  const isFast = new Function('return %HasFastProperties(Math)') as () => boolean;
  setFlagsFromString('--no-allow-natives-syntax');
  expect(isFast()).toBe(true);
  Math.random = counting();
  streams.follow();
  expect(isFast()).toBe(true);
});

it('touches nothing until it is installed', () => {
  const random = Math.random;
  const other = new RandomStreams(7, 1);
  expect(other.follow()).toBe(false);
  expect(Math.random).toBe(random);
});

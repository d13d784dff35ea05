import fc from 'fast-check';
import { expect, it } from 'vitest';
import { arenaAlignment, LifetimeRecorder, planArena } from './arena.ts';

const lifetimes = fc
  .array(fc.record({ bytes: fc.nat(5000), first: fc.nat(20), length: fc.nat(20) }), {
    maxLength: 30,
  })
  .map((list) =>
    list.map(({ bytes, first, length }, index) => ({
      key: `v${index}`,
      bytes,
      first,
      last: first + length,
    })),
  );

it('values that live at the same time have places apart, aligned, inside the arena', () => {
  fc.assert(
    fc.property(lifetimes, (values) => {
      const { bytes, offsets } = planArena(values);
      expect([...offsets.keys()].toSorted()).toEqual(values.map(({ key }) => key).toSorted());
      for (const [index, value] of values.entries()) {
        const start = offsets.get(value.key)!;
        expect(start % arenaAlignment).toBe(0);
        expect(start + value.bytes).toBeLessThanOrEqual(bytes);
        for (const other of values.slice(index + 1)) {
          if (other.first > value.last || value.first > other.last) continue;
          const otherStart = offsets.get(other.key)!;
          const apart = start + value.bytes <= otherStart || otherStart + other.bytes <= start;
          expect(apart, `${value.key} and ${other.key}`).toBe(true);
        }
      }
    }),
  );
});

it('takes no more than all values side by side, and no less than the fullest moment', () => {
  const size = (bytes: number) => Math.max(1, Math.ceil(bytes / arenaAlignment)) * arenaAlignment;
  const total = (values: { bytes: number }[]) =>
    values.reduce((sum, { bytes }) => sum + size(bytes), 0);
  fc.assert(
    fc.property(lifetimes, (values) => {
      const { bytes } = planArena(values);
      const moments = values.map(({ first }) =>
        total(values.filter((value) => value.first <= first && first <= value.last)),
      );
      expect(bytes).toBeLessThanOrEqual(total(values));
      expect(bytes).toBeGreaterThanOrEqual(Math.max(0, ...moments));
    }),
  );
});

it('a chain of layers needs room for two, whatever its length', () => {
  const chain = Array.from({ length: 50 }, (_, layer) => ({
    key: `layer ${layer}`,
    bytes: 1024,
    first: layer,
    last: layer + 1,
  }));
  expect(planArena(chain).bytes).toBe(2048);
});

it('a recorder makes touches one lifetime', () => {
  const recorder = new LifetimeRecorder();
  for (const position of [4, 2, 9]) recorder.touch('x', 64, position);
  recorder.touch('y', 8, 1);
  expect(recorder.lifetimes()).toEqual([
    { key: 'x', bytes: 64, first: 2, last: 9 },
    { key: 'y', bytes: 8, first: 1, last: 1 },
  ]);
});

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { elementCount, type HostParameter } from './hooks/index.ts';
import { flatLayout, groupRanges, intersect, slotAlignment } from './layout.ts';

const parameterList = fc
  .array(
    fc.record({
      shape: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 3 }),
      group: fc.integer({ min: 0, max: 1 }),
    }),
    { minLength: 1, maxLength: 20 },
  )
  .map((list) =>
    list.map((entry, index): HostParameter => ({ ...entry, name: `p${index}`, segments: [0] })),
  );
const worldSize = fc.integer({ min: 1, max: 9 });

it('slots hold every parameter once, in order, aligned and apart', () => {
  fc.assert(
    fc.property(parameterList, worldSize, (parameters, ranks) => {
      const layout = flatLayout(parameters, ranks);
      let end = 0;
      for (const [index, slot] of layout.slots.entries()) {
        expect(slot.name).toBe(parameters[index]!.name);
        expect(slot.count).toBe(elementCount(parameters[index]!.shape));
        expect(slot.offset % slotAlignment).toBe(0);
        expect(slot.offset).toBeGreaterThanOrEqual(end);
        expect(slot.offset - end).toBeLessThan(slotAlignment);
        expect(layout.byName.get(slot.name)).toBe(slot);
        end = slot.offset + slot.count;
      }
      expect(layout.total).toBeGreaterThanOrEqual(end);
      // No more padding than the alignment of the last slot and of equal shards needs.
      expect(layout.total - end).toBeLessThan(slotAlignment * (ranks + 1));
    }),
  );
});

it('shards are equal, aligned, and cut the buffer into parts without gaps', () => {
  fc.assert(
    fc.property(parameterList, worldSize, (parameters, ranks) => {
      const { shards, total } = flatLayout(parameters, ranks);
      let end = 0;
      for (const { offset, count } of shards) {
        expect(offset).toBe(end);
        expect(offset % slotAlignment).toBe(0);
        expect(count).toBe(total / ranks);
        end += count;
      }
      expect(end).toBe(total);
    }),
  );
});

it('group ranges of all shards cover each element of each parameter once, in its group', () => {
  fc.assert(
    fc.property(parameterList, worldSize, (parameters, ranks) => {
      const layout = flatLayout(parameters, ranks);
      const groupOf = new Array<number | undefined>(layout.total).fill(undefined);
      for (const shard of layout.shards) {
        for (const { offset, count, group } of groupRanges(layout, shard)) {
          expect(offset + count).toBeLessThanOrEqual(shard.count);
          const start = shard.offset + offset;
          expect(groupOf.slice(start, start + count).every((one) => one === undefined)).toBe(true);
          groupOf.fill(group, start, start + count);
        }
      }
      const expected = new Array<number | undefined>(layout.total).fill(undefined);
      for (const { offset, count, group } of layout.slots)
        expected.fill(group, offset, offset + count);
      expect(groupOf).toEqual(expected);
    }),
  );
});

it('an intersection is what both ranges hold', () => {
  const range = fc.record({ offset: fc.nat(30), count: fc.nat(30) });
  const elements = ({ offset, count }: { offset: number; count: number }) =>
    Array.from({ length: count }, (_, index) => offset + index);
  fc.assert(
    fc.property(range, range, (a, b) => {
      const both = new Set(elements(b));
      expect(elements(intersect(a, b))).toEqual(elements(a).filter((at) => both.has(at)));
    }),
  );
});

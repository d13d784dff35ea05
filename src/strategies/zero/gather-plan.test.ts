import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HostParameter } from '../../hooks/index.ts';
import { flatLayout, slotAlignment } from '../../layout.ts';
import { type Gathering, type GatherLimits, planGathers, positionOf } from './gather-plan.ts';

/** A model as the host orders it, with limits of any size. */
const request = fc
  .record({
    segmentCount: fc.integer({ min: 1, max: 6 }),
    narrow: fc.boolean(),
    limits: fc.record({
      persistence: fc.integer({ min: 0, max: 60 }),
      persistentTotal: fc.integer({ min: 0, max: 400 }),
      live: fc.integer({ min: 0, max: 1500 }),
      prefetch: fc.integer({ min: 0, max: 800 }),
      reuse: fc.integer({ min: 0, max: 1500 }),
    }),
    seeds: fc.array(
      fc.record({
        size: fc.integer({ min: 1, max: 300 }),
        uses: fc.array(fc.nat(5), { minLength: 1, maxLength: 3 }),
        forwardOnly: fc.boolean(),
        frozen: fc.boolean(),
        takes16Bits: fc.boolean(),
      }),
      { minLength: 1, maxLength: 16 },
    ),
  })
  .map(({ segmentCount, narrow, limits, seeds }) => {
    const parameters = seeds
      .map(({ size, uses, forwardOnly, frozen, takes16Bits }, index) => {
        const segments = [...new Set(uses.map((use) => use % segmentCount))].sort((a, b) => a - b);
        return {
          name: `p${index}`,
          shape: [size],
          segments,
          group: 0,
          isFrozen: frozen,
          takes16Bits,
          ...(forwardOnly && { readBackward: [] }),
        };
      })
      .sort((a, b) => b.segments[0]! - a.segments[0]!);
    const laidOut = (some: HostParameter[]) => ({ parameters: some, layout: flatLayout(some, 3) });
    const trained = laidOut(parameters.filter(({ isFrozen }) => !isFrozen));
    const frozen = laidOut(parameters.filter(({ isFrozen }) => isFrozen));
    return { ...trained, frozen, segmentCount, limits, narrow };
  });

type Given = typeof request extends fc.Arbitrary<infer T> ? T : never;
const layoutOf = ({ layout, frozen }: Given, gathering: Pick<Gathering, 'frozen'>) =>
  gathering.frozen ? frozen.layout : layout;

const readersOf = ({ segments, readBackward = segments }: HostParameter, count: number) => [
  ...segments.map((segment) => positionOf(segment, 'forward', count)),
  ...readBackward.map((segment) => positionOf(segment, 'backward', count)).reverse(),
];

it('every pass finds what it reads gathered exactly once, or whole; never twice at a time', () => {
  fc.assert(
    fc.property(request, (given) => {
      const plan = planGathers(given);
      const whole = new Set(plan.persistent.flatMap(({ parameters }) => parameters));
      for (const parameter of [...given.parameters, ...given.frozen.parameters]) {
        const stays = plan.gatherings.filter((one) => one.parameters.includes(parameter.name));
        const expected = whole.has(parameter.name) ? [] : readersOf(parameter, given.segmentCount);
        expect(stays.flatMap(({ readers }) => readers).sort((a, b) => a - b)).toEqual(expected);
        for (const { issue, readers } of stays) expect(issue).toBeLessThanOrEqual(readers[0]!);
        const inOrder = stays.toSorted((a, b) => a.readers[0]! - b.readers[0]!);
        for (const [index, { issue }] of inOrder.entries())
          expect(issue).toBeGreaterThan(inOrder[index - 1]?.readers.at(-1) ?? -1);
      }
    }),
  );
});

it('a gathering is a stretch of the flat buffer that holds its parameters and nothing else', () => {
  fc.assert(
    fc.property(request, (given) => {
      const { gatherings, persistent } = planGathers(given);
      for (const gathering of [...gatherings, ...persistent]) {
        const { parameters, offset, count } = gathering;
        const inside = layoutOf(given, gathering).slots.filter(
          (slot) => slot.offset >= offset && slot.offset < offset + count,
        );
        expect(inside.map(({ name }) => name)).toEqual(parameters);
        expect(inside[0]!.offset).toBe(offset);
        expect(inside.at(-1)!.offset + inside.at(-1)!.count).toBe(offset + count);
      }
    }),
  );
});

it('what steps may leave out is gathered apart, at the same time as ever', () => {
  fc.assert(
    fc.property(request, fc.uniqueArray(fc.nat(5)), (given, skippable) => {
      const stays = ({ gatherings }: ReturnType<typeof planGathers>) =>
        gatherings
          .flatMap(({ parameters, issue, readers }) =>
            parameters.map((name) => [name, issue, readers]),
          )
          .sort((a, b) => (String(a) < String(b) ? -1 : 1));
      const plan = planGathers({ ...given, skippable });
      expect(stays(plan)).toEqual(stays(planGathers(given)));
      const usersOf = new Map(
        [...given.parameters, ...given.frozen.parameters].map((one) => [one.name, one.segments]),
      );
      for (const { parameters, onlyFor } of plan.gatherings) {
        const users = parameters.map((name) => usersOf.get(name)!);
        const left = users.filter((segments) => segments.every((one) => skippable.includes(one)));
        if (onlyFor.length === 0) expect(left).toEqual([]);
        else for (const segments of users) expect(segments).toEqual(onlyFor);
      }
    }),
  );
});

it('two that are there together share no memory', () => {
  fc.assert(
    fc.property(request, (given) => {
      const { gatherings, persistent, wireSize, modelSize } = planGathers(given);
      const all = [...gatherings, ...persistent];
      const meets = (a: number, b: number, one: Gathering, other: Gathering) =>
        a < b + other.count && b < a + one.count;
      const last = ({ readers }: Gathering) => readers.at(-1) ?? Number.POSITIVE_INFINITY;
      const read = ({ readers, issue }: Gathering) => readers[0] ?? issue;
      const arrivesIn16Bits = ({ frozen }: Gathering) => given.narrow && !frozen;
      const inModel = (one: Gathering) => one.widened || !arrivesIn16Bits(one);
      const start = (one: Gathering) => (one.widened ? read(one) : one.issue);
      const end = (one: Gathering) => (one.widened ? read(one) : last(one));
      const narrowNames = new Set(
        given.parameters.filter((one) => one.takes16Bits).map(({ name }) => name),
      );
      for (const one of all) {
        expect(one.wirePlace % slotAlignment).toBe(0);
        expect(one.modelPlace % slotAlignment).toBe(0);
        for (const name of one.parameters)
          expect(one.widened).toBe(arrivesIn16Bits(one) && !narrowNames.has(name));
        if (inModel(one)) expect(one.modelPlace + one.count).toBeLessThanOrEqual(modelSize);
        if (arrivesIn16Bits(one)) expect(one.wirePlace + one.count).toBeLessThanOrEqual(wireSize);
        if (!one.widened) expect(one.wirePlace).toBe(one.modelPlace);
        for (const other of all) {
          if (one === other) continue;
          if (inModel(one) && inModel(other))
            if (start(one) <= last(other) && start(other) <= last(one))
              expect(meets(one.modelPlace, other.modelPlace, one, other)).toBe(false);
          if (!arrivesIn16Bits(one) || !arrivesIn16Bits(other)) continue;
          if (one.issue <= end(other) && other.issue <= end(one))
            expect(meets(one.wirePlace, other.wirePlace, one, other)).toBe(false);
        }
      }
    }),
  );
});

it('in place the same is gathered at the same time, where it lies; only what is widened needs memory', () => {
  fc.assert(
    fc.property(request, (given) => {
      const [apart, inPlace] = [false, true].map((one) => planGathers({ ...given, inPlace: one }));
      const when = ({ wirePlace: _w, modelPlace: _m, ...rest }: Gathering) => rest;
      expect(inPlace!.gatherings.map(when)).toEqual(apart!.gatherings.map(when));
      expect(inPlace!.persistent.map(when)).toEqual(apart!.persistent.map(when));
      for (const one of [...inPlace!.gatherings, ...inPlace!.persistent]) {
        expect(one.wirePlace).toBe(one.offset);
        if (!one.widened) expect(one.modelPlace).toBe(one.offset);
      }
      expect(inPlace!.wireSize).toBe(0);
      if (!given.narrow) expect(inPlace!.modelSize).toBe(0);
    }),
  );
});

it('keeps its limits; only what a pass reads itself may exceed them', () => {
  fc.assert(
    fc.property(request, (given) => {
      const { limits, segmentCount } = given;
      const { gatherings, persistent } = planGathers(given);
      const sizes = (one: Gathering) =>
        one.parameters.map((name) => layoutOf(given, one).byName.get(name)!.count);
      const sizeOf = (one: Gathering) => sizes(one).reduce((all, count) => all + count, 0);
      const sum = (some: readonly Gathering[]) => some.reduce((all, one) => all + sizeOf(one), 0);
      expect(sum(persistent)).toBeLessThanOrEqual(limits.persistentTotal);
      for (const count of persistent.flatMap(sizes))
        expect(count).toBeLessThanOrEqual(limits.persistence);
      for (let position = 0; position < 2 * segmentCount; position += 1) {
        const live = gatherings.filter(
          ({ issue, readers }) => issue <= position && position <= readers.at(-1)!,
        );
        const needed = live.filter(({ readers }) => readers.includes(position));
        expect(sum(live)).toBeLessThanOrEqual(Math.max(limits.live, sum(needed)));
        const ahead = live.filter(({ readers }) => readers[0]! > position);
        expect(sum(ahead)).toBeLessThanOrEqual(limits.prefetch);
      }
    }),
  );
});

describe('three layers of 100 elements', () => {
  const parameters = [2, 1, 0].map((segment) => ({
    name: `layer ${segment}`,
    shape: [100],
    segments: [segment],
    group: 0,
  }));
  const layout = flatLayout(parameters, 2);
  const none: GatherLimits = {
    persistence: 0,
    persistentTotal: Number.POSITIVE_INFINITY,
    live: 1000,
    prefetch: 0,
    reuse: 0,
  };
  const plan = (limits: Partial<GatherLimits>) =>
    planGathers({
      parameters,
      layout,
      segmentCount: 3,
      limits: { ...none, ...limits },
      narrow: false,
    });
  const stays = (limits: Partial<GatherLimits>) =>
    plan(limits).gatherings.map(({ issue, readers }) => [issue, ...readers]);

  it('one at a time needs the memory of one', () => {
    expect(stays({})).toEqual([0, 1, 2, 3, 4, 5].map((position) => [position, position]));
    expect(plan({}).wireSize).toBe(112);
  });

  it('one ahead needs that of two', () => {
    const ahead = [
      [0, 0],
      [0, 1],
      [1, 2],
      [3, 3],
      [3, 4],
      [4, 5],
    ];
    expect(stays({ prefetch: 100 })).toEqual(ahead);
    expect(stays({ prefetch: 199, live: 200 })).toEqual(ahead);
    expect(plan({ prefetch: 100 }).wireSize).toBe(224);
  });

  it('the last one stays between its forward and its backward when reuse is near', () => {
    expect(stays({ reuse: 1 })).toContainEqual([2, 2, 3]);
    expect(stays({ reuse: 201 })).toContainEqual([1, 1, 4]);
    expect(stays({ reuse: 201, live: 150 })).not.toContainEqual([1, 1, 4]);
    expect(stays({ reuse: 1000 })).toEqual([
      [0, 0, 5],
      [1, 1, 4],
      [2, 2, 3],
    ]);
  });

  it('what no pass reads stays whole', () => {
    const unread = [{ name: 'unread', shape: [500], segments: [], group: 0 }];
    const { gatherings, persistent } = planGathers({
      parameters,
      layout,
      frozen: { parameters: unread, layout: flatLayout(unread, 2) },
      segmentCount: 3,
      limits: none,
      narrow: true,
    });
    expect(gatherings.flatMap((one) => one.parameters)).not.toContain('unread');
    expect(persistent.map((one) => [one.parameters, one.frozen])).toEqual([[['unread'], true]]);
  });

  it('below the threshold nothing is gathered', () => {
    const { gatherings, persistent } = plan({ persistence: 100 });
    expect(gatherings).toEqual([]);
    expect(persistent.map(({ offset, count }) => [offset, count])).toEqual([[0, 324]]);
    expect(plan({ persistence: 100, persistentTotal: 250 }).gatherings).toHaveLength(2);
  });
});

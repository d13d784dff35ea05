/** The search for slow members and links over simulated networks, whose faults are known. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expectedBandwidth, samplePairs } from './expectation.ts';
import { findFaults } from './find-faults.ts';
import { Links, type Measure } from './links.ts';
import { inRounds, pairRounds } from './pair-rounds.ts';

/** Bandwidths around 1: a link carries what its ends and it itself allow, give or take a tenth. */
interface Network {
  size: number;
  /** By member, and by pair "a b" with a < b. */
  slowMembers: Map<number, number>;
  slowLinks: Map<string, number>;
  noise: () => number;
}

function simulate({ size, slowMembers, slowLinks, noise }: Network) {
  let probes = 0;
  const rate = (member: number) => slowMembers.get(member) ?? 1;
  const between = (a: number, b: number) =>
    slowLinks.get(`${Math.min(a, b)} ${Math.max(a, b)}`) ?? 1;
  // All send 2/n of the vector to each other: a member's own share is (n − 1) times that of one of its links.
  const bandwidth = (group: readonly number[]) =>
    Math.min(
      ...group.map(rate),
      ...group.flatMap((a) =>
        group.filter((b) => b !== a).map((b) => (group.length - 1) * between(a, b)),
      ),
    );
  const measure: Measure = async (groups) => {
    expect(new Set(groups.flat()).size).toBe(groups.flat().length);
    probes += groups.length;
    return groups.map((group) => ({
      bandwidth: bandwidth(group) * (0.9 + 0.2 * noise()),
      error: null,
    }));
  };
  const members = Array.from({ length: size }, (_, member) => member);
  return { members, measure, probes: () => probes };
}

const floor = 0.5;
const search = async (network: Network, sampled: boolean) => {
  const { members, measure, probes } = simulate(network);
  const links = new Links(measure);
  if (sampled) await links.get(samplePairs(members, false));
  const faults = await findFaults(members, { measure, links, floor, isPresent: () => true });
  return { faults, links, probes: probes() };
};

const noisy = fc
  .infiniteStream(fc.double({ min: 0, max: 1, noNaN: true }))
  .map((stream) => () => stream.next().value);
const rates = fc.double({ min: 0, max: 0.4, noNaN: true });

describe('the search', () => {
  it('blames nobody in a sound network', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 2, max: 20 }), noisy, async (size, noise) => {
        const network = { size, slowMembers: new Map(), slowLinks: new Map(), noise };
        const { faults, probes } = await search(network, false);
        expect(faults).toEqual({ members: [], links: [], unexplained: false });
        expect(probes).toBe(1);
      }),
    );
  });

  it('finds slow members, be it one or two, and only them', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc
          .integer({ min: 4, max: 20 })
          .chain((size) =>
            fc.tuple(
              fc.constant(size),
              fc.uniqueArray(fc.integer({ min: 0, max: size - 1 }), { minLength: 1, maxLength: 2 }),
            ),
          ),
        rates,
        noisy,
        fc.boolean(),
        async ([size, slow], rate, noise, sampled) => {
          const slowMembers = new Map(slow.map((member) => [member, rate]));
          const { faults } = await search(
            { size, slowMembers, slowLinks: new Map(), noise },
            sampled,
          );
          expect(faults.members.map(({ member }) => member).sort((a, b) => a - b)).toEqual(
            [...slow].sort((a, b) => a - b),
          );
          expect(faults.links).toEqual([]);
          expect(faults.unexplained).toBe(false);
        },
      ),
    );
  });

  it('finds a slow link, tells it from its ends, and does not measure every pair', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 3, max: 24 }).chain((size) =>
          fc.tuple(
            fc.constant(size),
            fc.uniqueArray(fc.integer({ min: 0, max: size - 1 }), { minLength: 2, maxLength: 2 }),
            // Of what the whole group shows: one link carries a small share of it.
            fc.double({ min: 0, max: 0.4 / (size - 1), noNaN: true }),
          ),
        ),
        noisy,
        async ([size, ends, rate], noise) => {
          const [a, b] = [Math.min(...ends), Math.max(...ends)];
          const slowLinks = new Map([[`${a} ${b}`, rate]]);
          const network = { size, slowMembers: new Map(), slowLinks, noise };
          const { faults, probes } = await search(network, false);
          expect(faults.members).toEqual([]);
          expect(faults.links.map((link) => [link.a, link.b])).toEqual([[a, b]]);
          expect(faults.links[0]!.beside.length).toBeGreaterThan(0);
          // Groups down to the pair, the pairs across two halves, witnesses of both ends, and doubts.
          expect(probes).toBeLessThanOrEqual(
            2 * Math.ceil(Math.log2(size)) + (size * size) / 4 + 20,
          );
        },
      ),
    );
  });

  it('finds a member and a link that are slow at once', async () => {
    const slowMembers = new Map([[1, 0.1]]);
    const slowLinks = new Map([['4 6', 0.02]]);
    const { faults } = await search({ size: 9, slowMembers, slowLinks, noise: () => 0.5 }, false);
    expect(faults.members.map(({ member }) => member)).toEqual([1]);
    expect(faults.links.map(({ a, b }) => [a, b])).toEqual([[4, 6]]);
  });

  it("does not count a slow member's links as slow links, whichever is found first", async () => {
    const slowMembers = new Map([[3, 0.2]]);
    const network = { size: 5, slowMembers, slowLinks: new Map([['0 2', 0.1]]), noise: () => 0.5 };
    for (const sampled of [false, true]) {
      const { faults } = await search(network, sampled);
      expect(faults.members.map(({ member }) => member)).toEqual([3]);
      expect(faults.members[0]!.slow).toHaveLength(4);
      expect(faults.links.map(({ a, b }) => [a, b])).toEqual([[0, 2]]);
      expect(faults.links[0]!.beside.length).toBeGreaterThan(0);
    }
  });

  it('cannot say which of two is slow', async () => {
    const slowMembers = new Map([[0, 0.1]]);
    const { faults } = await search(
      { size: 2, slowMembers, slowLinks: new Map(), noise: () => 0.5 },
      false,
    );
    expect(faults.members).toEqual([]);
    expect(faults.links).toMatchObject([{ a: 0, b: 1, beside: [] }]);
  });

  it('says so when the group is slow and no link is', async () => {
    const measure: Measure = async (groups) =>
      groups.map((group) => ({ bandwidth: group.length > 2 ? 0.3 : 1, error: null }));
    const links = new Links(measure);
    const setting = { measure, links, floor, isPresent: () => true };
    expect(await findFaults([0, 1, 2, 3, 4], setting)).toEqual({
      members: [],
      links: [],
      unexplained: true,
    });
  });

  it('goes on without a member that is lost in the middle of it', async () => {
    const slowMembers = new Map([[2, 0.1]]);
    const { members, measure } = simulate({
      size: 7,
      slowMembers,
      slowLinks: new Map(),
      noise: () => 0.5,
    });
    for (let after = 1; after < 12; after++) {
      let calls = 0;
      const isPresent = (member: number) => member !== 5 || calls < after;
      const links: Links = new Links((groups) => withLoss(groups));
      const withLoss: Measure = async (groups) => {
        calls += 1;
        const measured = await measure(groups);
        return groups.map((group, index) =>
          group.every(isPresent) ? measured[index]! : { bandwidth: 0, error: 'lost' },
        );
      };
      const faults = await findFaults(members, { measure: withLoss, links, floor, isPresent });
      expect(faults.members.map(({ member }) => member)).toEqual([2]);
      expect(faults.links).toEqual([]);
    }
  });

  it('does not blame a link that was slow once', async () => {
    let calls = 0;
    const measure: Measure = async (groups) => {
      calls += 1;
      return groups.map(() => ({ bandwidth: calls === 1 ? 0.1 : 1, error: null }));
    };
    const links = new Links(measure);
    await links.get([[0, 1]]);
    expect(await findFaults([0, 1, 2], { measure, links, floor, isPresent: () => true })).toEqual({
      members: [],
      links: [],
      unexplained: false,
    });
  });
});

describe('pairs in rounds', () => {
  it('are all pairs, once each, nobody twice in a round', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(99), { maxLength: 15 }), (members) => {
        const rounds = pairRounds(members);
        const pairs = rounds.flat().map(([a, b]) => `${Math.min(a, b)} ${Math.max(a, b)}`);
        expect(new Set(pairs).size).toBe(pairs.length);
        expect(2 * pairs.length).toBe(members.length ** 2 - members.length);
        for (const made of [rounds, inRounds(rounds.flat())])
          for (const round of made) expect(new Set(round.flat()).size).toBe(2 * round.length);
      }),
    );
  });
});

describe('what is expected', () => {
  it('is what sound members have, whatever the faults of fewer than half', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 3, max: 24 }),
        fc.nat(99),
        rates,
        noisy,
        async (size, seed, rate, noise) => {
          const slow = Array.from({ length: (size - 1) >> 1 }, (_, i) => (seed + i) % size);
          const slowMembers = new Map(slow.map((member) => [member, rate]));
          const { members, measure } = simulate({ size, slowMembers, slowLinks: new Map(), noise });
          const links = new Links(measure);
          await links.get(samplePairs(members, true));
          const expected = expectedBandwidth(links.all)!;
          expect(expected).toBeGreaterThanOrEqual(0.9);
          expect(expected).toBeLessThanOrEqual(1.1);
        },
      ),
    );
  });

  it('is nothing without pairs', () => expect(expectedBandwidth([])).toBeNull());
});

/** The verdict over probes that are simulated: what fails a check, and what does not. */
import { describe, expect, it } from 'vitest';
import { check } from './check.ts';
import type { Probe, Probes } from './probes.ts';

/** Seconds in which vectors go through a group, or why they do not. */
type Network = (group: readonly number[]) => number | string;

const quick = 0.001;

function simulate(size: number, network: Network, sharesCores = false): Probes {
  const members = Array.from({ length: size }, (_, member) => member);
  return {
    names: members.map((member) => `host-${member}`),
    sharesCores,
    lost: [],
    present: () => members,
    measure: async (groups, { sizes }) =>
      groups.map((group): Probe => {
        const seconds = network(group);
        return typeof seconds === 'string'
          ? { readings: [], error: seconds }
          : { readings: [{ bytes: sizes.at(-1)!, seconds }], error: null };
      }),
    close: async () => {},
  };
}

const judge = (
  probes: Probes,
  options: { expected?: number; leastShare?: number; asRun?: boolean } = {},
) =>
  check(probes, {
    expected: null,
    leastShare: 0.5,
    allPairs: false,
    asRun: false,
    say: () => {},
    ...options,
  });

describe('the verdict', () => {
  it('is healthy where pairs and the group are as quick', async () => {
    const report = await judge(simulate(4, () => quick));
    expect(report).toMatchObject({ healthy: true, members: [], links: [], unexplained: false });
  });

  it.each([
    ['is not done in time', 'not done after 2 s', 0.0001],
    ['comes to a wrong sum', 'element 3 of the sum is 7, and should be 15', 0.5],
  ])(
    'is not where the all-reduce of all %s, though every pair is sound',
    async (_, error, share) => {
      const network: Network = (group) => (group.length > 2 ? error : quick);
      const report = await judge(simulate(5, network), { leastShare: share });
      expect(report.sweep.error).toBe(error);
      expect(report).toMatchObject({ healthy: false, members: [], links: [] });
    },
  );

  it('is not where the all-reduce failed once and then did not', async () => {
    let failed = false;
    const report = await judge(
      simulate(5, (group) => {
        if (group.length === 2 || failed) return quick;
        failed = true;
        return 'a connection ended';
      }),
    );
    expect(report).toMatchObject({ healthy: false, unexplained: false });
  });

  it('lets a group be slower than its pairs, unless more was promised', async () => {
    const network: Network = (group) => (group.length > 2 ? 100 * quick : quick);
    expect(await judge(simulate(5, network))).toMatchObject({ healthy: true, unexplained: true });
    const expected = (4 << 20) / quick;
    expect(await judge(simulate(5, network), { expected })).toMatchObject({
      healthy: false,
      unexplained: true,
    });
  });

  it.each([
    ['as quick', quick, true],
    ['a little slower', 1.9 * quick, true],
    ['slower by more than the least share', 2.1 * quick, false],
    ['does not end', 'not done after 2 s', false],
  ] as const)('a run over the same links that is %s', async (_, way, healthy) => {
    const probes = simulate(4, () => quick);
    const swept: number[][] = [];
    probes.measureRun = async (members, { sizes }) => {
      swept.push([...members]);
      return typeof way === 'string'
        ? { readings: [], error: way }
        : { readings: [{ bytes: sizes.at(-1)!, seconds: way }], error: null };
    };
    expect((await judge(probes)).run).toBeNull();
    const report = await judge(probes, { asRun: true });
    expect(report).toMatchObject({ healthy, run: { isSlow: !healthy }, members: [], links: [] });
    expect(swept).toEqual([[0, 1, 2, 3]]);
  });

  it('blames a link among members that share cores only where nothing comes through', async () => {
    const crossing = (group: readonly number[]) => group.includes(0) && group.includes(2);
    const slow = simulate(3, (group) => (crossing(group) ? 100 * quick : quick), true);
    expect(await judge(slow)).toMatchObject({ members: [], links: [], unexplained: true });
    const broken = simulate(3, (group) => (crossing(group) ? 'not done' : quick), true);
    expect((await judge(broken)).links).toMatchObject([{ a: 0, b: 2, bandwidth: 0 }]);
  });
});

/** The check before training: how fast an all-reduce is, how fast it should be, and who is to blame when it is not. */
import { expectedBandwidth, samplePairs } from './expectation.ts';
import { type Faults, findFaults } from './find-faults.ts';
import { type Link, Links, type Measure } from './links.ts';
import {
  largeBandwidth,
  type Lost,
  type Probe,
  type Probes,
  probePlan,
  sweepPlan,
} from './probes.ts';

export interface CheckOptions {
  /** Bytes/s that a member should reach in an all-reduce; null: found out from pairs. */
  expected: number | null;
  /** Below this share of what is expected something is slow; in (0, 1]. */
  leastShare: number;
  /** Measures every pair, whatever the group's size. */
  allPairs: boolean;
  /** Sweeps also as a run does, where that is another way than that of the check. */
  asRun: boolean;
  /** What is going on, for people who wait. */
  say: (text: string) => void;
}

export interface CheckReport extends Faults {
  names: string[];
  lost: Lost[];
  expected: number | null;
  expectedFrom: 'given' | 'pairs';
  leastShare: number;
  /** The all-reduce over all members that are not lost. */
  sweep: Probe;
  swept: number[];
  /** Bus bandwidth of the sweep's largest vectors, bytes/s. */
  reached: number;
  /** The same all-reduce as a run does it, and its bus bandwidth; null where it was not asked for. */
  run: { sweep: Probe; reached: number; isSlow: boolean } | null;
  /** Every pair that was measured. */
  pairs: Link[];
  healthy: boolean;
}

export async function check(probes: Probes, options: CheckOptions): Promise<CheckReport> {
  const { leastShare, allPairs, asRun, say } = options;
  const measure: Measure = async (groups) => {
    const made = await probes.measure(groups, probePlan);
    return made.map(({ readings, error }, index) => ({
      bandwidth: largeBandwidth(readings, groups[index]!.length),
      error,
    }));
  };
  const isPresent = (member: number) => probes.present().includes(member);
  const ofPresent = ({ a, b }: Link) => isPresent(a) && isPresent(b);
  const links = new Links(measure);
  if (options.expected === null || allPairs) {
    const pairs = samplePairs(probes.present(), allPairs);
    say(`${pairs.length} pair${pairs.length === 1 ? '' : 's'} of ${probes.present().length}`);
    await links.get(pairs);
  }
  const expected = options.expected ?? (expectedBandwidth(links.all.filter(ofPresent)) || null);

  let swept = probes.present();
  let sweep: Probe = { readings: [], error: null };
  while (swept.length > 1) {
    say(`all-reduce over ${swept.length}`);
    [sweep] = (await probes.measure([swept], sweepPlan)) as [Probe];
    if (swept.every(isPresent)) break;
    swept = probes.present();
  }
  const reached = largeBandwidth(sweep.readings, swept.length);

  const run = asRun && swept.length > 1 ? await sweepAsRun(probes, swept, options, reached) : null;

  // Nothing is too little, whatever is expected, and all that a link is blamed for among those that share cores.
  const floor = Math.max(Number.MIN_VALUE, (expected ?? 0) * leastShare);
  const blameFloor = probes.sharesCores ? Number.MIN_VALUE : floor;
  const isGroupShort = swept.length > 1 && reached < floor;
  const isShort = isGroupShort || links.all.some(({ bandwidth }) => bandwidth < blameFloor);
  if (isShort) say('slower than expected: looking for the cause');
  const faults = isShort
    ? await findFaults(swept, { measure, links, floor: blameFloor, isPresent })
    : { members: [], links: [], unexplained: false };
  const lost = [...probes.lost];
  const blamed = faults.members.length + faults.links.length > 0;
  if (probes.sharesCores && isGroupShort && !blamed) faults.unexplained = true;
  return {
    ...faults,
    names: [...probes.names],
    lost,
    expected,
    expectedFrom: options.expected === null ? 'pairs' : 'given',
    leastShare,
    sweep,
    swept,
    reached,
    run,
    pairs: links.all.filter(ofPresent),
    // What was measured in pairs need not hold for a group: only a promise that was given is broken. But an
    // all-reduce that does not come to its end, or to its sum, is no training, whoever is to blame.
    healthy:
      swept.length > 1 &&
      sweep.error === null &&
      !run?.isSlow &&
      lost.length === 0 &&
      !blamed &&
      !(faults.unexplained && options.expected !== null),
  };
}

/** What a run reaches over the same machines and links: less than the check's own all-reduce is its own doing. */
async function sweepAsRun(
  probes: Probes,
  swept: readonly number[],
  { leastShare, say }: CheckOptions,
  reachedByCheck: number,
): Promise<CheckReport['run']> {
  if (probes.measureRun === undefined) return null;
  say('all-reduce as a run does it');
  const sweep = await probes.measureRun(swept, sweepPlan);
  const reached = largeBandwidth(sweep.readings, swept.length);
  const isSlow = sweep.error !== null || reached < leastShare * reachedByCheck;
  return { sweep, reached, isSlow };
}

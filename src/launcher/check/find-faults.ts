/**
 * Which members or links make an all-reduce slow: the group is cut in two, and the half that falls short again, down
 * to a pair; where both halves are sound, the link lies across, and the pairs across are measured. Then the pair is
 * told apart: a member most of whose links are slow is slow itself.
 */
import type { Link, Links, Measure } from './links.ts';
import type { Pair } from './pair-rounds.ts';

export interface SlowMember {
  member: number;
  /** Its links as far as they were measured: the slow ones, and the others. */
  slow: Link[];
  sound: Link[];
}

export interface SlowLink extends Link {
  /** The other links of both ends that were measured, which are not slow. */
  beside: Link[];
}

export interface Faults {
  members: SlowMember[];
  links: SlowLink[];
  /** The group falls short, and no link does. */
  unexplained: boolean;
}

export interface FaultSearch {
  measure: Measure;
  links: Links;
  /** Bytes/s below which a group or a link is slow. */
  floor: number;
  /** Whether a member is there still. */
  isPresent: (member: number) => boolean;
}

/** A member is judged by its links to at most so many others. */
const WITNESSES = 8;

export async function findFaults(
  members: readonly number[],
  { measure, links, floor, isPresent }: FaultSearch,
): Promise<Faults> {
  const faults: Faults = { members: [], links: [], unexplained: false };
  const slowOnes = async (pairs: readonly Pair[]) => links.slow(await links.get(pairs), floor);
  const isSound = async (group: readonly number[]) => {
    const present = group.filter(isPresent);
    if (present.length < 2) return true;
    if (present.length === 2) return (await slowOnes([[present[0]!, present[1]!]])).length === 0;
    const [measured] = await measure([present]);
    return measured!.bandwidth >= floor;
  };

  const bisect = async (group: readonly number[]): Promise<Link[]> => {
    if (group.length < 2) return [];
    if (group.length === 2) return slowOnes([[group[0]!, group[1]!]]);
    const middle = group.length >> 1;
    const halves = [group.slice(0, middle), group.slice(middle)] as const;
    for (const half of halves) {
      if (await isSound(half)) continue;
      const found = await bisect(half);
      if (found.length > 0) return found;
    }
    return slowOnes(halves[0].flatMap((a) => halves[1].map((b): Pair => [a, b])));
  };

  /** What is known of both ends of a link, the one with the larger share of slow links first. */
  const judge = async ({ a, b }: Link, rest: readonly number[]): Promise<SlowMember[]> => {
    const witnesses = rest.filter((other) => other !== a && other !== b).slice(0, WITNESSES);
    await links.get([a, b].flatMap((end) => witnesses.map((other): Pair => [end, other])));
    const judged: SlowMember[] = [];
    for (const member of [a, b]) {
      const known = links.of(member, rest);
      const slow = await links.slow(known, floor);
      judged.push({ member, slow, sound: known.filter((link) => !slow.includes(link)) });
    }
    return judged.sort((x, y) => slowShare(y) - slowShare(x));
  };

  let rest = [...members];
  for (;;) {
    rest = rest.filter(isPresent);
    const inside = ({ a, b }: Link) => rest.includes(a) && rest.includes(b);
    let suspects = await links.slow(links.all.filter(inside), floor);
    if (suspects.length === 0) {
      if (await isSound(rest)) break;
      suspects = await bisect(rest);
    }
    const slowest = suspects.reduce<Link | null>(
      (x, y) => (x !== null && x.bandwidth <= y.bandwidth ? x : y),
      null,
    );
    const worst = slowest && (await judge(slowest, rest))[0]!;
    // Who was lost meanwhile made every group with it fall short: once more, without it.
    if (!rest.every(isPresent)) continue;
    if (worst === null) {
      faults.unexplained = true;
      break;
    }
    if (worst.slow.length > 1 && slowShare(worst) > 0.5) faults.members.push(worst);
    else faults.links.push(...worst.slow.map((link) => ({ ...link, beside: [] })));
    // With one end of a slow link gone, groups show what else there is.
    rest = rest.filter((member) => member !== worst.member);
  }
  // A link was found before its end was: the member is what makes it slow.
  for (const { member, slow } of faults.members) {
    const isOf = ({ a, b }: Link) => a === member || b === member;
    slow.push(...faults.links.filter(isOf));
    faults.links = faults.links.filter((link) => !isOf(link));
  }
  const sound = links.all.filter(({ bandwidth }) => bandwidth >= floor);
  for (const link of faults.links)
    link.beside = sound.filter(({ a, b }) =>
      [a, b].some((end) => end === link.a || end === link.b),
    );
  return faults;
}

function slowShare({ slow, sound }: SlowMember): number {
  return slow.length / (slow.length + sound.length);
}

/** The bandwidth that a sound member of this group has, found out from pairs. */
import type { Link } from './links.ts';
import { type Pair, pairRounds } from './pair-rounds.ts';

/** In a group up to this size all pairs are measured, in a larger one each member with so many others. */
const ALL_PAIRS_UP_TO = 8;
const PARTNERS = 3;

/** Pairs from which `expectedBandwidth` is taken. */
export function samplePairs(members: readonly number[], all: boolean): Pair[] {
  const rounds = pairRounds(members);
  return (all || members.length <= ALL_PAIRS_UP_TO ? rounds : rounds.slice(0, PARTNERS)).flat();
}

/**
 * The median over members of each one's best link, the upper of two. A slow link leaves its ends their other links,
 * and a slow member only its own best link slow: right as long as no more than half of the members are slow.
 *
 * @returns bytes/s; null without links
 */
export function expectedBandwidth(links: readonly Link[]): number | null {
  const best = new Map<number, number>();
  for (const { a, b, bandwidth } of links)
    for (const end of [a, b]) best.set(end, Math.max(best.get(end) ?? 0, bandwidth));
  const ascending = [...best.values()].sort((x, y) => x - y);
  return ascending[ascending.length >> 1] ?? null;
}

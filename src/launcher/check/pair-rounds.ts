/** Pairs in rounds, so that nobody is in two pairs of a round: they can be measured at the same time. */
export type Pair = readonly [number, number];

/**
 * All pairs of `members` in the rounds of a tournament (the circle method): one stays, the others move on by one
 * place a round. After k rounds everybody has met k others, one less where their number is odd.
 */
export function pairRounds(members: readonly number[]): Pair[][] {
  const seats: (number | null)[] = [...members];
  if (seats.length % 2 === 1) seats.push(null);
  const rounds: Pair[][] = [];
  for (let round = 1; round < seats.length; round++) {
    const pairs: Pair[] = [];
    for (let place = 0; place < seats.length / 2; place++) {
      const [a, b] = [seats[place]!, seats[seats.length - 1 - place]!];
      if (a !== null && b !== null) pairs.push([a, b]);
    }
    rounds.push(pairs);
    seats.splice(1, 0, seats.pop()!);
  }
  return rounds;
}

/** Any pairs in rounds: each goes into the first round in which both are free. */
export function inRounds(pairs: readonly Pair[]): Pair[][] {
  const rounds: { pairs: Pair[]; busy: Set<number> }[] = [];
  for (const pair of pairs) {
    let round = rounds.find(({ busy }) => !pair.some((member) => busy.has(member)));
    if (round === undefined) {
      round = { pairs: [], busy: new Set() };
      rounds.push(round);
    }
    round.pairs.push(pair);
    for (const member of pair) round.busy.add(member);
  }
  return rounds.map((round) => round.pairs);
}

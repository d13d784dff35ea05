/** The bandwidth of links between two members, each measured when it is first asked for. */
import { inRounds, type Pair } from './pair-rounds.ts';

export interface Link {
  a: number;
  b: number;
  /** Bytes/s each way, both ways at a time; 0: nothing came through in time. */
  bandwidth: number;
  /** Why nothing came through, or null. */
  error: string | null;
}

/** Of groups that share no member, measured at the same time. */
export type Measure = (
  groups: readonly (readonly number[])[],
) => Promise<Pick<Link, 'bandwidth' | 'error'>[]>;

/** A link that looks slow is measured so often again, alone, before it counts as slow. */
const CONFIRMATIONS = 2;

export class Links {
  readonly #measure: Measure;
  readonly #known = new Map<string, Link>();
  readonly #confirmed = new Set<Link>();

  constructor(measure: Measure) {
    this.#measure = measure;
  }

  get all(): Link[] {
    return [...this.#known.values()].sort((x, y) => x.a - y.a || x.b - y.b);
  }

  /** Of a member: its known links to `others`. */
  of(member: number, others: readonly number[]): Link[] {
    return others.flatMap((other) => this.#known.get(keyOf([member, other])) ?? []);
  }

  /** Those links, the unknown ones measured side by side. */
  async get(pairs: readonly Pair[]): Promise<Link[]> {
    const unknown = pairs.filter((pair) => !this.#known.has(keyOf(pair)));
    for (const round of inRounds(unknown)) {
      const measured = await this.#measure(round);
      for (const [index, pair] of round.entries()) {
        const [a, b] = [Math.min(...pair), Math.max(...pair)];
        this.#known.set(keyOf(pair), { a, b, ...measured[index]! });
      }
    }
    return pairs.map((pair) => this.#known.get(keyOf(pair))!);
  }

  /** Of these, the ones that stay below `floor` when they are measured again with nothing beside them. */
  async slow(links: readonly Link[], floor: number): Promise<Link[]> {
    for (const link of links) {
      if (link.bandwidth >= floor || this.#confirmed.has(link)) continue;
      this.#confirmed.add(link);
      // Twice nothing is enough: each time takes the whole time limit.
      const times = link.bandwidth === 0 ? 1 : CONFIRMATIONS;
      for (let time = 0; time < times && link.bandwidth < floor; time++) {
        const [again] = await this.#measure([[link.a, link.b]]);
        if (again!.bandwidth > link.bandwidth) Object.assign(link, again);
      }
    }
    return links.filter(({ bandwidth }) => bandwidth < floor);
  }
}

function keyOf([a, b]: Pair): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`;
}

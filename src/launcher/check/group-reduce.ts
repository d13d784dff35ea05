/**
 * An all-reduce among agents over TCP, timed. Everybody sends each other one its slice, adds up what comes for its
 * own in the order of members, and sends the sum to everybody: every link carries 2/n of the vector each way, so that
 * a single slow one shows.
 */
import type { ProbePlan, Reading } from './probes.ts';
import { shareOf, verifySum } from './sum.ts';
import type { Wire } from './wire.ts';

/** A size is done again for so long; the fastest counts, since what else runs there only adds time. */
const LEAST_MS = 40;
const MOST_ROUNDS = 20;
/** So many times longer than enough, and the first one tells enough. */
const VERY_SLOW = 4;

export interface Seat {
  /** By member; null in the place of this one. */
  wires: readonly (Wire | null)[];
  me: number;
}

/** Member 0 leads: says before each all-reduce how large it is, and takes the time until all have finished. */
export async function reduceTogether(seat: Seat, plan: ProbePlan): Promise<Reading[]> {
  return seat.me === 0 ? lead(seat, plan) : follow(seat);
}

async function lead({ wires, me }: Seat, { sizes, enoughMs }: ProbePlan): Promise<Reading[]> {
  const others = wires.filter((wire) => wire !== null);
  const order = (count: number) => {
    for (const wire of others) wire.write(new Uint8Array(Uint32Array.of(count).buffer));
  };
  const round = async (exchange: Exchange): Promise<number> => {
    const start = performance.now();
    order(exchange.count);
    await exchange.run();
    await Promise.all(others.map((wire) => wire.read(new Uint8Array(1))));
    return (performance.now() - start) / 1000;
  };
  const readings: Reading[] = [];
  for (const bytes of sizes) {
    const exchange = new Exchange({ wires, me }, bytes / Float32Array.BYTES_PER_ELEMENT);
    if (readings.length === 0) {
      // Connections begin slowly, if not so slowly; and what comes out is looked at once.
      const seconds = await round(exchange);
      exchange.verify();
      if (seconds * 1000 > VERY_SLOW * enoughMs) {
        readings.push({ bytes, seconds });
        break;
      }
    }
    let seconds = Number.POSITIVE_INFINITY;
    const begin = performance.now();
    for (let done = 0; done < MOST_ROUNDS; done++) {
      seconds = Math.min(seconds, await round(exchange));
      if (performance.now() - begin > LEAST_MS) break;
    }
    readings.push({ bytes, seconds });
    if (seconds * 1000 > enoughMs) break;
  }
  order(0);
  return readings;
}

async function follow(seat: Seat): Promise<Reading[]> {
  const leader = seat.wires[0]!;
  const word = new Uint8Array(4);
  let exchange = new Exchange(seat, 0);
  for (let isFirst = true; ; isFirst = false) {
    await leader.read(word);
    const count = new DataView(word.buffer).getUint32(0, true);
    if (count === 0) return [];
    if (exchange.count !== count) exchange = new Exchange(seat, count);
    await exchange.run();
    if (isFirst) exchange.verify();
    leader.write(Uint8Array.of(1));
  }
}

/** The vectors of one size, which the same all-reduce uses again and again. */
class Exchange {
  readonly count: number;
  readonly #seat: Seat;
  readonly #own: Float32Array;
  readonly #parts: Float32Array[];
  readonly #result: Float32Array;

  constructor(seat: Seat, count: number) {
    this.count = count;
    this.#seat = seat;
    this.#own = new Float32Array(count).fill(shareOf(seat.me));
    const mine = this.#slice(this.#own, seat.me);
    this.#parts = seat.wires.map((wire) => (wire === null ? mine : new Float32Array(mine.length)));
    this.#result = new Float32Array(count);
  }

  /** Nothing is written to that a peer may still be sent: a round ends when all have everything. */
  async run(): Promise<void> {
    const { me } = this.#seat;
    await this.#each(
      (to) => this.#slice(this.#own, to),
      (from) => this.#parts[from]!,
    );
    const sum = this.#slice(this.#result, me).fill(0);
    for (const part of this.#parts)
      for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + part[i]!;
    await this.#each(
      () => sum,
      (from) => this.#slice(this.#result, from),
    );
  }

  /** One after the other, so that nobody receives from two at a time: switches drop what comes at once. */
  async #each(
    sent: (to: number) => Float32Array,
    received: (from: number) => Float32Array,
  ): Promise<void> {
    const { wires, me } = this.#seat;
    for (let step = 1; step < wires.length; step++) {
      const to = (me + step) % wires.length;
      const from = (me - step + wires.length) % wires.length;
      wires[to]!.write(bytesOf(sent(to)));
      await wires[from]!.read(bytesOf(received(from)));
    }
  }

  /** @throws Error where an element is not everybody's sum. */
  verify(): void {
    verifySum(this.#result, this.#seat.wires.length);
  }

  #slice(vector: Float32Array, member: number): Float32Array {
    const { length } = this.#seat.wires;
    const at = (place: number) => Math.floor((this.count * place) / length);
    return vector.subarray(at(member), at(member + 1));
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/**
 * One run, one `Math.random`: every rank draws the same numbers from the run's seed, so that weights,
 * shuffles and augmentations of an unchanged script agree. What must differ between ranks (the dropout of
 * each one's own rows) is drawn from another stream.
 */
export type RandomState = readonly [number, number, number, number];

/** xoshiro128** (Blackman and Vigna, 2021), seeded by splitmix32; two outputs make one double of 53 bits. */
export class RandomStream {
  #state: [number, number, number, number];

  constructor(seed: number, stream: number) {
    let x = (seed ^ Math.imul(stream, 0x9e3779b9)) | 0;
    const next = () => {
      x = (x + 0x9e3779b9) | 0;
      let z = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return (z ^ (z >>> 15)) >>> 0;
    };
    this.#state = [next(), next(), next(), next() | 1];
  }

  get state(): RandomState {
    return [...this.#state];
  }

  set state(state: RandomState) {
    this.#state = [...state];
  }

  /** A number in [0, 1). */
  next(): number {
    const high = this.#bits() >>> 5;
    const low = this.#bits() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  #bits(): number {
    const s = this.#state;
    const result = Math.imul(rotate(Math.imul(s[1], 5), 7), 9);
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 11);
    return result;
  }
}

function rotate(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}

/** The streams of one rank. `Math.random` draws from `shared` unless `locally` runs. */
export class RandomStreams {
  readonly shared: RandomStream;
  readonly #local: RandomStream;
  #current: RandomStream;

  constructor(seed: number, rank: number) {
    this.shared = new RandomStream(seed, 0);
    this.#local = new RandomStream(seed, rank + 1);
    this.#current = this.shared;
  }

  /** Replaces `Math.random` of this process. */
  install(): void {
    Math.random = () => this.#current.next();
  }

  /** Runs `action` with the stream that belongs to this rank alone. */
  locally<T>(action: () => T): T {
    const before = this.#current;
    this.#current = this.#local;
    try {
      return action();
    } finally {
      this.#current = before;
    }
  }
}

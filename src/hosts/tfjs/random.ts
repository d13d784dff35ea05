/**
 * One run, one `Math.random`: every rank draws the same numbers from the run's seed, so that weights,
 * shuffles and augmentations of an unchanged script agree. What must differ between ranks (the dropout of
 * each one's own rows) is drawn from another stream.
 */

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

/** Draws a number in [0, 1). */
export type Draw = () => number;

/** What all ranks draw alike. A stretch of it can be drawn again: the check of the first batch needs one mask twice. */
export class SharedNumbers {
  readonly #source: Draw;
  /** Numbers to be drawn (again) before the source's next one: those from `#at` on. */
  #drawn: number[] = [];
  #at = 0;
  #recording = false;

  constructor(source: Draw) {
    this.#source = source;
  }

  next(): number {
    const again = this.#drawn[this.#at];
    if (again !== undefined) {
      this.#at += 1;
      return again;
    }
    const value = this.#source();
    if (this.#recording) {
      this.#drawn.push(value);
      this.#at += 1;
    }
    return value;
  }

  /** From here on `rewind` leads back here, until `stop`. */
  record(): void {
    this.stop();
    this.#recording = true;
  }

  rewind(): void {
    this.#at = 0;
  }

  stop(): void {
    this.#recording = false;
    this.#drawn = this.#drawn.slice(this.#at);
    this.#at = 0;
  }
}

/** The streams of one rank. `Math.random` draws from `shared` unless `locally` runs. */
export class RandomStreams {
  readonly #local: RandomStream;
  #isLocal = false;
  /** Where each function that `Math.random` has been draws its shared numbers from. */
  readonly #numbers = new Map<Draw, SharedNumbers>();
  readonly #ours: Draw;
  #random: Draw;
  #installed = false;

  constructor(seed: number, rank: number) {
    const stream = new RandomStream(seed, 0);
    this.#local = new RandomStream(seed, rank + 1);
    this.#ours = this.#drawing(() => stream.next());
    this.#random = this.#ours;
  }

  /** Replaces `Math.random` of this process. */
  install(): void {
    Math.random = this.#ours;
    this.#installed = true;
  }

  /** What the function that is `Math.random` draws for all ranks. */
  get shared(): SharedNumbers {
    return this.#numbers.get(this.#random)!;
  }

  /**
   * Looks whether the script has replaced `Math.random` once more, as those do that seed it: what it puts there
   * decides what all ranks draw alike, and not what each rank draws for itself. To be called before either matters.
   * An accessor in place of `random` would tell at once, but makes `Math` an object that V8 looks up by name: a loop
   * over `Math.max` takes five times as long, and the kernels of the cpu backend are such loops.
   *
   * @returns whether `Math.random` is a function of the script's own
   */
  follow(): boolean {
    if (!this.#installed) return false;
    const current = Math.random;
    if (current !== this.#random) {
      this.#random = this.#numbers.has(current) ? current : this.#drawing(current);
      Math.random = this.#random;
    }
    return this.#random !== this.#ours;
  }

  #drawing(source: Draw): Draw {
    const numbers = new SharedNumbers(source);
    const draw = () => (this.#isLocal ? this.#local.next() : numbers.next());
    this.#numbers.set(draw, numbers);
    return draw;
  }

  /** Runs `action` with the stream that belongs to this rank alone. */
  locally<T>(action: () => T): T {
    this.follow();
    const before = this.#isLocal;
    this.#isLocal = true;
    try {
      return action();
    } finally {
      this.#isLocal = before;
    }
  }
}

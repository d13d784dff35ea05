import { agree, type Peers } from './agree.ts';

/**
 * Work that all ranks do in parts, beside whatever else they do. Each yields what it has begun of a part and gets back
 * the results of all ranks, in rank order; the next part begins when all have ended this one.
 */
export type Parts<T> = Generator<Promise<unknown>, T, unknown[]>;

/** Goes through parts without waiting in between, where nobody has to: see `isReady`. */
export class JointWork<T> {
  readonly #peers: Peers;
  readonly #parts: Parts<T>;
  #part: IteratorResult<Promise<unknown>, T>;
  #isReady = false;

  constructor(peers: Peers, parts: Parts<T>) {
    this.#peers = peers;
    this.#parts = parts;
    this.#part = this.#next();
  }

  /** This rank has ended its part, well or not: `proceed` would wait for others only. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /**
   * Collective. Waits until all ranks have ended their part and begins the next. A failure on one is the same error on
   * all, and ends the work.
   *
   * @returns null until the last part has ended everywhere
   */
  async proceed(): Promise<{ result: T } | null> {
    const part = this.#part;
    if (!part.done) this.#part = this.#next(await agree(this.#peers, () => part.value));
    return this.#part.done ? { result: this.#part.value } : null;
  }

  /** Ends, and never rejects, when this rank has ended its part. */
  async ownPart(): Promise<void> {
    if (!this.#part.done) await this.#part.value.catch(() => {});
  }

  #next(results: unknown[] = []): IteratorResult<Promise<unknown>, T> {
    this.#isReady = false;
    const part = this.#parts.next(results);
    const end = () => {
      if (this.#part === part) this.#isReady = true;
    };
    // Whoever proceeds looks at a failure; until then it is not one that nobody handles.
    if (!part.done) part.value.then(end, end);
    return part;
  }
}

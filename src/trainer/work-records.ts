import type { NativeEngine, WorkRecord } from '../native/index.ts';

type Take = (records: readonly WorkRecord[]) => void;

/**
 * The one reader of the engine's work records: reading takes them away, so the trace and the breakdown
 * of time both get theirs from here. The engine records only while somebody follows.
 */
export class WorkRecords {
  readonly #engine: NativeEngine;
  readonly #followers = new Set<Take>();

  constructor(engine: NativeEngine) {
    this.#engine = engine;
  }

  /** `take` gets everything that is drained from now on. @returns ends it; a second call does nothing */
  follow(take: Take): () => void {
    if (this.#followers.size === 0) this.#engine.setTracing(true);
    this.#followers.add(take);
    return () => {
      if (this.#followers.delete(take) && this.#followers.size === 0) {
        this.#engine.setTracing(false);
      }
    };
  }

  /** Hands the works that have ended since the last call to all followers. */
  drain(): void {
    if (this.#followers.size === 0) return;
    const records = this.#engine.takeRecords();
    for (const take of this.#followers) take(records);
  }
}

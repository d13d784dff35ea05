/**
 * One allocation for everything that crosses segments: activations, saved values, their gradients.
 * Lifetimes are known before the first step, so offsets are planned once and a step allocates nothing.
 */
export interface Lifetime {
  /** Key of the value in the caller's own terms. */
  key: string;
  bytes: number;
  /** First and last position on the step's time line at which the value is touched. */
  first: number;
  last: number;
}

export interface ArenaPlan {
  bytes: number;
  offsets: Map<string, number>;
}

/** Cache line; also what vector kernels like. */
export const arenaAlignment = 64;

/** First fit, largest first: within a few percent of the lower bound on transformer time lines. */
export function planArena(values: readonly Lifetime[]): ArenaPlan {
  const offsets = new Map<string, number>();
  const placed: { start: number; end: number; first: number; last: number }[] = [];
  let bytes = 0;
  const order = [...values].sort(
    (a, b) => b.bytes - a.bytes || a.first - b.first || (a.key < b.key ? -1 : 1),
  );
  for (const value of order) {
    const size = Math.max(arenaAlignment, Math.ceil(value.bytes / arenaAlignment) * arenaAlignment);
    const rivals = placed
      .filter((other) => other.first <= value.last && value.first <= other.last)
      .sort((a, b) => a.start - b.start);
    let start = 0;
    for (const rival of rivals) {
      if (start + size <= rival.start) break;
      start = Math.max(start, rival.end);
    }
    offsets.set(value.key, start);
    placed.push({ start, end: start + size, first: value.first, last: value.last });
    bytes = Math.max(bytes, start + size);
  }
  return { bytes, offsets };
}

/** Collects touches of values and turns them into lifetimes. */
export class LifetimeRecorder {
  readonly #values = new Map<string, Lifetime>();

  touch(key: string, bytes: number, position: number): void {
    const value = this.#values.get(key);
    if (!value) {
      this.#values.set(key, { key, bytes, first: position, last: position });
      return;
    }
    value.first = Math.min(value.first, position);
    value.last = Math.max(value.last, position);
  }

  lifetimes(): Lifetime[] {
    return [...this.#values.values()];
  }
}

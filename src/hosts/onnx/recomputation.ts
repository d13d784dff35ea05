import type { PlannedSegment, PlannedValue } from '../../graph/plan.ts';

/**
 * Activation checkpointing (Chen et al., 1604.06174) by groups of segments: of a group only what it reads
 * stays until backward, which runs the group's forwards again before it goes through the group. They are the
 * same compiled graphs on the same numbers, dropout included, so training gives the same bits.
 */
export class Recomputation {
  readonly #groupOf = new Map<number, number>();
  /** Segments to run again, by the segment whose backward they come before. */
  readonly #before = new Map<number, readonly number[]>();

  /**
   * @param segments of a plan, in forward order
   * @param every how many segments make a group; 0: nothing is computed again
   */
  constructor(segments: readonly Pick<PlannedSegment, 'backward'>[], every: number) {
    const first = segments.findIndex(({ backward }) => backward !== null);
    if (every === 0 || first < 0) return;
    // The last group's backward comes right after its forward: nothing would be gained there.
    for (let start = first; start + every < segments.length; start += every) {
      const group = Array.from({ length: every }, (_, index) => start + index);
      for (const segment of group) this.#groupOf.set(segment, start);
      this.#before.set(group.at(-1)!, group);
    }
  }

  /** The segments whose forwards run again before the backward of `segment`, in order. */
  before(segment: number): readonly number[] {
    return this.#before.get(segment) ?? [];
  }

  /** Whether the forward of `segment` runs again. */
  includes(segment: number): boolean {
    return this.#groupOf.has(segment);
  }

  inSameGroup(one: number, other: number): boolean {
    const group = this.#groupOf.get(one);
    return group !== undefined && group === this.#groupOf.get(other);
  }
}

/** What a value is called where it was computed again: it has a place of its own. */
const again = (actual: string) => `${actual}#again`;

/** Which of two places a segment reads and writes when a plan is run with recomputation. */
export class RecomputedNames {
  readonly #recomputation: Recomputation;
  readonly #producers = new Map<string, number>();

  constructor(segments: readonly PlannedSegment[], recomputation: Recomputation) {
    this.#recomputation = recomputation;
    for (const [index, { forward }] of segments.entries()) {
      for (const { actual } of forward.outputs) this.#producers.set(actual, index);
    }
  }

  /** As the backward of `segment`, or its forward when it runs again, calls a value. */
  nameOf({ actual }: Pick<PlannedValue, 'actual'>, segment: number): string {
    const producer = this.#producers.get(actual);
    const local = producer !== undefined && this.#recomputation.inSameGroup(producer, segment);
    return local ? again(actual) : actual;
  }
}

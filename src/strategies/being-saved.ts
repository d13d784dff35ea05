import { intersect, type Shard } from '../layout.ts';
import type { Work } from '../native/contract.ts';

/** Elements of the flat buffer that a checkpoint reads together, and the work after which it has. */
export interface SavedStretch {
  readonly range: Shard;
  readonly read: Work;
}

/**
 * What a checkpoint that is written beside training has yet to read. Nothing is copied for it, so whatever changes
 * weights or states waits, stretch by stretch.
 */
export class BeingSaved {
  #local: readonly Work[] = [];
  #stretches: readonly SavedStretch[] = [];

  /** @param local the work after which the state of this rank alone has been read */
  begin(local: Work, stretches: readonly SavedStretch[]): void {
    this.#local = [local];
    this.#stretches = stretches;
  }

  /** All has been read. */
  end(): void {
    this.#local = [];
    this.#stretches = [];
  }

  /** What to wait for before state of this rank alone changes. */
  get local(): readonly Work[] {
    return this.#local;
  }

  /** What to wait for before elements of the flat buffer change. */
  before(range: Shard): Work[] {
    return this.#stretches
      .filter((stretch) => intersect(stretch.range, range).count > 0)
      .map(({ read }) => read);
  }

  /** `range` by what its parts have to wait for, in the order in which they are read; whole when nothing has to. */
  divide(range: Shard): { range: Shard; after: Work[] }[] {
    const end = range.offset + range.count;
    const parts: { range: Shard; after: Work[] }[] = [];
    let offset = range.offset;
    for (const { range: stretch, read } of this.#stretches) {
      const part = intersect(stretch, range);
      if (part.count === 0) continue;
      if (part.offset > offset) {
        parts.push({ range: { offset, count: part.offset - offset }, after: [] });
      }
      parts.push({ range: part, after: [read] });
      offset = part.offset + part.count;
    }
    if (offset < end) parts.push({ range: { offset, count: end - offset }, after: [] });
    return parts;
  }
}

import { alignUp, slotAlignment } from '../../layout.ts';

/** Needs `count` elements of memory from position `first` to `last`, both included. */
export interface Tenant {
  readonly first: number;
  readonly last: number;
  readonly count: number;
}

/**
 * Static places in one buffer for tenants that come and go: each takes the first stretch that is free as
 * long as it stays.
 *
 * @param alignment of places, in elements
 * @returns element offsets by tenant, and the elements of the buffer
 */
export function firstFit(
  tenants: readonly Tenant[],
  alignment = slotAlignment,
): { offsets: number[]; size: number } {
  const placed: { tenant: Tenant; start: number; end: number }[] = [];
  const offsets = new Array<number>(tenants.length).fill(0);
  let size = 0;
  // Longest-lived first: what stays throughout must not fragment the rest.
  const order = tenants
    .map((tenant, index) => ({ tenant, index }))
    .sort(
      (a, b) =>
        duration(b.tenant) - duration(a.tenant) ||
        b.tenant.count - a.tenant.count ||
        a.index - b.index,
    );
  for (const { tenant, index } of order) {
    const rivals = placed
      .filter(({ tenant: other }) => tenant.first <= other.last && other.first <= tenant.last)
      .sort((a, b) => a.start - b.start);
    let start = 0;
    for (const rival of rivals) {
      if (start + tenant.count <= rival.start) break;
      start = Math.max(start, rival.end);
    }
    const end = alignUp(start + tenant.count, alignment);
    placed.push({ tenant, start, end });
    offsets[index] = start;
    size = Math.max(size, end);
  }
  return { offsets, size };
}

function duration({ first, last }: Tenant): number {
  return last - first;
}

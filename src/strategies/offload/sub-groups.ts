import { alignUp, type Shard } from '../../layout.ts';
import { swapUnit } from './settings.ts';

/**
 * DeepSpeed's sub-groups: the elements [0, count) of a shard in stretches of `size`, rounded up to what
 * direct I/O moves. Each stretch is wholly in memory or wholly on disk.
 *
 * @param cuts where the tails begin
 */
export function subGroups(count: number, size: number, cuts: readonly number[]): Shard[] {
  const length = alignUp(Math.max(1, size), swapUnit);
  const ends = [...new Set([...cuts, count])]
    .filter((cut) => cut > 0 && cut <= count)
    .sort((a, b) => a - b);
  const groups: Shard[] = [];
  let offset = 0;
  for (const end of ends) {
    for (; offset < end; offset += groups.at(-1)!.count) {
      groups.push({ offset, count: Math.min(length, end - offset) });
    }
  }
  return groups;
}

/** Stretches inside `group`, their offsets relative to it. */
export function rangesWithin<R extends Shard>(ranges: readonly R[], group: Shard): R[] {
  return ranges.flatMap((range) => {
    const start = Math.max(range.offset, group.offset);
    const end = Math.min(range.offset + range.count, group.offset + group.count);
    return end > start ? [{ ...range, offset: start - group.offset, count: end - start }] : [];
  });
}

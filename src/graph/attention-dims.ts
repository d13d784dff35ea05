/** What the layout attributes of deepspeed.Attention say about the shapes of its operands. */

export type AttentionLayout = 'bhsd' | 'bshd' | 'packed';

export interface AttentionDims {
  layout: AttentionLayout;
  batch: number;
  heads: number;
  kvHeads: number;
  /** Queries, and keys. */
  length: number;
  keys: number;
  /** Elements of a head. */
  width: number;
}

/**
 * Reads Q's shape and K's (absent in `packed`). Undefined when they do not fit the layout and the number
 * of heads: docs/operators.md.
 */
export function attentionDims(
  layout: string,
  heads: number,
  kvHeads: number,
  q: readonly number[],
  k: readonly number[] | undefined,
): AttentionDims | undefined {
  if (heads < 1 || kvHeads < 1 || heads % kvHeads !== 0) return undefined;
  const same = { heads, kvHeads };
  if (layout === 'bhsd') {
    const [batch, h, length, width] = q as [number, number, number, number];
    const expected = [batch, kvHeads, k?.[2], width].join();
    if (q.length !== 4 || h !== heads || k?.join() !== expected) return undefined;
    return { layout, batch, length, keys: k[2]!, width, ...same };
  }
  const [batch, length, row] = q as [number, number, number];
  if (q.length !== 3) return undefined;
  if (layout === 'packed') {
    const width = row / (heads + 2 * kvHeads);
    const fits = Number.isInteger(width) && k === undefined;
    return fits ? { layout, batch, length, keys: length, width, ...same } : undefined;
  }
  const width = row / heads;
  const expected = [batch, k?.[1], kvHeads * width].join();
  if (layout !== 'bshd' || !Number.isInteger(width) || k?.join() !== expected) return undefined;
  return { layout, batch, length, keys: k[1]!, width, ...same };
}

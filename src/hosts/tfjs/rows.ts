/** Rows [start, start + count) of a batch of `total`. */
export interface Rows {
  readonly start: number;
  readonly count: number;
  readonly total: number;
}

/** Part `index` of `parts` of n rows: [n·index/parts, n·(index+1)/parts), rounded down. */
export function part(n: number, index: number, parts: number): { start: number; count: number } {
  const start = Math.floor((n * index) / parts);
  return { start, count: Math.floor((n * (index + 1)) / parts) - start };
}

/** The rows of a batch that rank `rank` computes; count may be 0. */
export function rowsOfRank(total: number, rank: number, worldSize: number): Rows {
  return { ...part(total, rank, worldSize), total };
}

/** Micro batch `index` of `parts` of some rows. */
export function microRows(rows: Rows, index: number, parts: number): Rows {
  const { start, count } = part(rows.count, index, parts);
  return { start: rows.start + start, count, total: rows.total };
}

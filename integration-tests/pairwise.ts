/** Rows of option values in which every pair of values of two options occurs at least once. */

export type Options = Readonly<Record<string, readonly unknown[]>>;
export type Row<O extends Options> = { readonly [K in keyof O]: O[K][number] };

/**
 * Greedy: each row starts from a pair that is missing and takes, option by option, the value that covers most of
 * what is still missing. The same rows every time.
 */
export function pairwise<const O extends Options>(options: O): Row<O>[] {
  const names = Object.keys(options);
  const missing = new Set<string>();
  const key = (a: number, i: number, b: number, j: number) =>
    a < b ? `${a}:${i} ${b}:${j}` : `${b}:${j} ${a}:${i}`;
  for (const [a, one] of names.entries()) {
    for (const b of names.keys()) {
      if (b <= a) continue;
      for (const i of options[one]!.keys()) {
        for (const j of options[names[b]!]!.keys()) missing.add(key(a, i, b, j));
      }
    }
  }
  const rows: Row<O>[] = [];
  while (missing.size > 0) {
    const [first] = missing;
    const [one, other] = first!.split(' ').map((part) => part.split(':').map(Number));
    const chosen = new Map([one, other] as [number, number][]);
    for (const [a, name] of names.entries()) {
      if (chosen.has(a)) continue;
      const gains = options[name]!.map(
        (_, i) => [...chosen].filter(([b, j]) => missing.has(key(a, i, b, j))).length,
      );
      chosen.set(a, gains.indexOf(Math.max(...gains)));
    }
    for (const [a, i] of chosen) for (const [b, j] of chosen) missing.delete(key(a, i, b, j));
    rows.push(
      Object.fromEntries(names.map((name, a) => [name, options[name]![chosen.get(a)!]])) as Row<O>,
    );
  }
  return rows;
}

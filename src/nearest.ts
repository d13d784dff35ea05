import { DeepSpeedError } from './errors.ts';

/** The nearest of the known names, for "did you mean": undefined when none is near enough to be a slip. */
export function nearest(word: string, names: Iterable<string>): string | undefined {
  let best: { name: string; distance: number } | undefined;
  for (const name of names) {
    const distance = editDistance(word.toLowerCase(), name.toLowerCase());
    if (!best || distance < best.distance) best = { name, distance };
  }
  return best && best.distance <= Math.max(2, word.length / 4) ? best.name : undefined;
}

/**
 * What is wrong with a name that is none of the known ones, and which was probably meant.
 *
 * @param noun what the known ones are: "an argument"
 */
export function unknownName(name: string, known: readonly string[], noun: string): string {
  const camel = name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  if (camel !== name && known.includes(camel)) return `${name}: write ${camel}`;
  const near = nearest(camel, known);
  return near ? `${name} is not ${noun}; did you mean ${near}?` : `${name} is not ${noun}`;
}

/**
 * For objects of options that plain JavaScript may hand in.
 *
 * @param what they are options of: "OnnxModel"
 * @throws ARGUMENTS_INVALID naming every key that is not known
 */
export function refuseUnknownKeys(given: object, known: readonly string[], what: string): void {
  if (typeof given !== 'object' || given === null) {
    throw new DeepSpeedError('ARGUMENTS_INVALID', `the options of ${what} are ${given}`, {
      fix: `Give an object with ${known.join(', ')}.`,
    });
  }
  const unknown = Object.keys(given).filter((key) => !known.includes(key));
  if (unknown.length === 0) return;
  const noun = `an option of ${what}`;
  throw new DeepSpeedError(
    'ARGUMENTS_INVALID',
    unknown.map((key) => unknownName(key, known, noun)).join('\n  '),
    { fix: `The options are ${known.join(', ')}.`, data: { unknown } },
  );
}

/** Insertions, deletions, changes of single letters and swaps of neighbours (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const change = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swap = swapped ? beforeLast[j - 2]! + 1 : Number.POSITIVE_INFINITY;
      next.push(Math.min(change, swap, row[j]! + 1, next[j - 1]! + 1));
    }
    beforeLast = row;
    row = next;
  }
  return row[b.length]!;
}

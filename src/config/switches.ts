/** Whether a part of a config is on: what is off is accepted whole, whatever else it says. */
import type { Autos } from './autos.ts';
import type { Keys } from './key.ts';
import { isObject, join } from './node.ts';

/** A block is on unless it is empty or says `enabled: false` wherever it says anything about it. */
export function isSwitchedOn(value: unknown): boolean {
  const switches: unknown[] = [];
  function collect(node: unknown): void {
    if (!isObject(node)) return;
    if (Object.hasOwn(node, 'enabled')) switches.push(node.enabled);
    for (const child of Object.values(node)) collect(child);
  }
  if (!isObject(value)) return value !== false;
  // An outer switch that is off settles what lies below it.
  if (value.enabled === false) return false;
  collect(value);
  if (switches.length === 0) return Object.keys(value).length > 0;
  return switches.some((state) => state !== false);
}

/** A section with `enabled: false`, written, filled or by default, changes nothing. */
export function isSwitchedOff(
  keys: Keys,
  raw: Record<string, unknown>,
  path: string,
  autos: Autos,
): boolean {
  const entry = keys.enabled;
  if (entry?.kind !== 'key') return false;
  const written = raw.enabled ?? entry.default;
  return (written === 'auto' ? autos[join(path, 'enabled')]?.value : written) === false;
}

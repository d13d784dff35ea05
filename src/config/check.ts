/**
 * One walk over a written config and the table: every key is checked, filled and given an origin,
 * and every problem is collected, so that a user sees all of them at once.
 */
import { isDeepStrictEqual } from 'node:util';
import { nearest } from '../nearest.ts';
import type { Autos } from './autos.ts';
import type { Block, Choice, Entry, Key, Keys, Section } from './key.ts';
import type { Problem } from './problem.ts';
import { isObject, join } from './node.ts';
import { isSwitchedOff, isSwitchedOn } from './switches.ts';
import { misplaced } from './table.ts';

/** Where an effective value came from. */
export type Origin = 'file' | 'auto' | 'default' | 'computed';

export interface Findings {
  problems: Problem[];
  warnings: string[];
  /** By dotted path, leaves only. */
  origins: Record<string, Origin>;
}

type Values = Record<string, unknown>;

/**
 * Checks `raw` against `keys` and fills what is missing.
 *
 * @param path dotted path of `raw` in the file, '' for the root
 * @returns every key of the table with its effective value; meaningless if problems were found
 */
export function checkKeys(
  keys: Keys,
  raw: Values,
  path: string,
  autos: Autos,
  findings: Findings,
): Values {
  for (const name of Object.keys(raw)) {
    if (!Object.hasOwn(keys, name)) findings.problems.push(unknownKey(join(path, name), keys));
  }
  const switchedOff = isSwitchedOff(keys, raw, path, autos);
  const values: Values = {};
  for (const [name, entry] of Object.entries(keys)) {
    const here = join(path, name);
    // Under a switch that is off nothing can change behaviour: only types are checked there.
    const settled = switchedOff && name !== 'enabled';
    const written = Object.hasOwn(raw, name) ? raw[name] : undefined;
    values[name] = checkEntry(entry, written, here, autos, findings, settled);
  }
  return values;
}

function checkEntry(
  entry: Entry,
  written: unknown,
  path: string,
  autos: Autos,
  findings: Findings,
  settled: boolean,
): unknown {
  switch (entry.kind) {
    case 'key':
      return checkKey(entry, written, path, autos, findings, settled);
    case 'section':
      return checkSection(entry, written, path, autos, findings);
    case 'choice':
      return checkChoice(entry, written, path, autos, findings);
    case 'block':
      return checkBlock(entry, written, path, findings);
  }
}

function checkKey(
  key: Key,
  written: unknown,
  path: string,
  autos: Autos,
  { problems, warnings, origins }: Findings,
  settled: boolean,
): unknown {
  if (written === undefined) {
    origins[path] = 'default';
    return key.default;
  }
  const auto = autos[path];
  let value: unknown = written;
  let origin: Origin = 'file';
  if (written === 'auto' && !key.schema.safeParse('auto').success) {
    if (auto !== undefined) {
      value = auto.value;
      origin = 'auto';
    } else if (settled || key.status === 'accepted' || key.status === 'ignored') {
      origins[path] = 'default';
      return key.default;
    } else {
      const who = key.autoFrom === undefined ? 'nothing fills it' : `filled by ${key.autoFrom}`;
      problems.push({
        kind: 'auto',
        path,
        got: written,
        expected: `"auto" was not replaced (${who}); write a value`,
      });
      return key.default;
    }
  }
  const parsed = key.schema.safeParse(value);
  if (!parsed.success) {
    problems.push({
      kind: 'value',
      path,
      got: value,
      expected: key.expects,
      nearest: typeof value === 'string' ? nearest(value, quotedWords(key.expects)) : undefined,
    });
    return key.default;
  }
  origins[path] = origin;
  if (origin === 'file' && auto?.given === true && !isDeepStrictEqual(parsed.data, auto.value)) {
    problems.push({
      kind: 'mismatch',
      path,
      got: parsed.data,
      expected: `the config says ${JSON.stringify(parsed.data)}, the argument ${auto.from} ${JSON.stringify(auto.value)}; make them equal or write "auto"`,
    });
  }
  const changed = !isDeepStrictEqual(parsed.data, key.default);
  if (changed && !settled) {
    if (key.later?.includes(parsed.data)) {
      problems.push(unavailable(path, 'not yet', undefined, parsed.data));
    } else if (key.status === 'not yet' || key.status === 'never') {
      problems.push(unavailable(path, key.status, key.note));
    } else if (key.status === 'ignored') {
      warnings.push(`${path} has no effect: ${key.note}`);
    }
  }
  return parsed.data;
}

function checkSection(
  section: Section,
  written: unknown,
  path: string,
  autos: Autos,
  findings: Findings,
): Values | null {
  if (section.optional && (written === undefined || written === null)) return null;
  if (written !== undefined && written !== null && !isObject(written)) {
    findings.problems.push({ kind: 'value', path, got: written, expected: 'a section { ... }' });
  }
  return checkKeys(section.keys, isObject(written) ? written : {}, path, autos, findings);
}

function checkChoice(
  choice: Choice,
  written: unknown,
  path: string,
  autos: Autos,
  findings: Findings,
): Values | null {
  if (written === undefined || written === null) return null;
  const types = Object.keys(choice.variants);
  const given = isObject(written) ? written.type : undefined;
  const type = types.find((name) => name.toLowerCase() === String(given).toLowerCase());
  if (!isObject(written) || type === undefined) {
    findings.problems.push({
      kind: 'value',
      path: isObject(written) ? join(path, 'type') : path,
      got: isObject(written) ? (given ?? null) : written,
      expected: isObject(written) ? types.join(', ') : '{ type, params }',
      nearest: nearest(String(given), types),
    });
    return null;
  }
  for (const name of Object.keys(written)) {
    if (name === 'type' || name === 'params') continue;
    if (name === 'legacy_fusion') continue; // read by DeepSpeed for Apex only
    findings.problems.push(unknownKey(join(path, name), { type: 0, params: 0 }));
  }
  const variant = choice.variants[type]!;
  findings.origins[join(path, 'type')] = 'file';
  if (variant.status !== 'available') {
    findings.problems.push(unavailable(join(path, 'type'), 'not yet', undefined, type));
    return null;
  }
  const params = checkSection(
    { kind: 'section', meaning: variant.meaning, keys: variant.params },
    written.params,
    join(path, 'params'),
    autos,
    findings,
  );
  return { type, params };
}

function checkBlock(
  block: Block,
  written: unknown,
  path: string,
  { problems, origins }: Findings,
): Values | null {
  if (written === undefined || written === null || written === false) return null;
  if (isSwitchedOn(written)) problems.push(unavailable(path, block.status, block.note));
  origins[path] = 'file';
  return isObject(written) ? written : null;
}

/** `value` is given where only some values of the key are missing. */
function unavailable(
  path: string,
  status: 'not yet' | 'never',
  note?: string,
  value?: unknown,
): Problem {
  const verdict = status === 'never' ? 'is not part of deepspeed-js' : 'is not available yet';
  const subject = value === undefined ? '' : `${JSON.stringify(value)} `;
  const reason = note === undefined ? '' : `: ${note}`;
  return { kind: 'unavailable', path, got: value, expected: `${subject}${verdict}${reason}` };
}

/** `candidates` are the keys that exist where the unknown one was found. */
export function unknownKey(path: string, candidates: object): Problem {
  const dot = path.lastIndexOf('.');
  const near = nearest(path.slice(dot + 1), Object.keys(candidates));
  const meant = near === undefined ? undefined : path.slice(0, dot + 1) + near;
  return { kind: 'unknown', path, expected: 'no such key', nearest: misplaced[path] ?? meant };
}

function quotedWords(expects: string): string[] {
  return [...expects.matchAll(/"([^"]+)"/g)].map((match) => match[1]!);
}

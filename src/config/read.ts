/** From a path, an object or a base64 string to plain data; nothing is checked or filled here. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import Hjson from 'hjson';
import { DeepSpeedError } from '../errors.ts';
import { locateKeys } from './hjson-keys.ts';
import type { Lines } from './problem.ts';

/** A config as it was written. */
export interface RawConfig {
  values: Record<string, unknown>;
  /** The file's name, or "the config object". */
  source: string;
  lines: Lines;
}

/**
 * Reads a DeepSpeed config.
 *
 * @param source a path to an HJSON file, the config itself, or its JSON in url-safe base64
 * @throws CONFIG_NOT_FOUND when the file cannot be read; CONFIG_SYNTAX when it is not HJSON, not an
 *   object, or names a key twice
 */
export function readConfig(source: string | Record<string, unknown>): RawConfig {
  if (typeof source !== 'string') {
    return { values: structuredClone(source), source: 'the config object', lines: new Map() };
  }
  const text = readText(source);
  if (text !== undefined) return parse(text, basename(source));
  const decoded = decodeBase64(source);
  if (decoded !== undefined) return parse(decoded, 'the base64 config');
  throw new DeepSpeedError('CONFIG_NOT_FOUND', `cannot read the config ${source}: no such file`, {
    data: { path: source },
  });
}

/**
 * A config may be given in code and by the launcher; then both must say the same.
 *
 * @throws CONFIG_CONFLICT naming both sources and the first keys that differ
 */
export function requireSameConfig(inCode: RawConfig, fromLauncher: RawConfig): void {
  const differing = [
    ...new Set([...Object.keys(inCode.values), ...Object.keys(fromLauncher.values)]),
  ]
    .filter((key) => !isDeepStrictEqual(inCode.values[key], fromLauncher.values[key]))
    .sort();
  if (differing.length === 0) return;
  throw new DeepSpeedError(
    'CONFIG_CONFLICT',
    `the config given in code (${inCode.source}) and the launcher's (${fromLauncher.source}) differ in ${differing.join(', ')}`,
    { data: { keys: differing } },
  );
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // A long base64 string is not a legal file name: that is "no such file" too.
    if (code === 'ENOENT' || code === 'ENAMETOOLONG' || code === 'ENOTDIR') return undefined;
    throw new DeepSpeedError('CONFIG_NOT_FOUND', `cannot read the config ${path}: ${code}`, {
      cause,
      data: { path },
    });
  }
}

function decodeBase64(text: string): string | undefined {
  if (!/^[\w-]+=*$/.test(text)) return undefined;
  const decoded = Buffer.from(text, 'base64url').toString('utf8');
  return decoded.trimStart().startsWith('{') ? decoded : undefined;
}

function parse(text: string, source: string): RawConfig {
  let values: unknown;
  try {
    values = Hjson.parse(text);
  } catch (cause) {
    const reason = (cause as Error).message.split('\n')[0];
    throw new DeepSpeedError('CONFIG_SYNTAX', `${source} is not valid HJSON: ${reason}`, { cause });
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw new DeepSpeedError('CONFIG_SYNTAX', `${source} holds no object of keys and values`);
  }
  const lines = new Map<string, number>();
  const duplicates: string[] = [];
  for (const { path, line, firstLine } of locateKeys(text)) {
    if (firstLine === undefined) lines.set(path, line);
    else duplicates.push(`${path} (lines ${firstLine} and ${line})`);
  }
  if (duplicates.length > 0) {
    throw new DeepSpeedError(
      'CONFIG_SYNTAX',
      `${source} gives keys twice: ${duplicates.join(', ')}`,
      {
        fix: 'Keep one of each.',
        data: { duplicates },
      },
    );
  }
  return { values: values as Record<string, unknown>, source, lines };
}

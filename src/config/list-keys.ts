/** The table as flat rows, one per key, in the table's order. */
import type { Block, Entry, Key, Keys, Status } from './key.ts';
import { table } from './table.ts';

export interface KeyRow {
  /** Dotted; a type-dependent parameter reads `optimizer.params.lr (AdamW)`. */
  path: string;
  status: Status;
  meaning: string;
  note?: string | undefined;
  /** Absent for sections. */
  default?: unknown;
  later?: readonly unknown[] | undefined;
  autoFrom?: string | undefined;
}

export function listKeys(keys: Keys = table, path = ''): KeyRow[] {
  return Object.entries(keys).flatMap(([name, entry]) =>
    listEntry(entry, path === '' ? name : `${path}.${name}`),
  );
}

function listEntry(entry: Entry, path: string): KeyRow[] {
  switch (entry.kind) {
    case 'key':
      return [keyRow(entry, path)];
    case 'section':
      return listKeys(entry.keys, path);
    case 'choice':
      return Object.entries(entry.variants).flatMap(([type, { status, meaning, params }]) => [
        { path: `${path}.type = ${type}`, status, meaning },
        ...listKeys(params, `${path}.params`).map((row) => ({
          ...row,
          path: `${row.path} (${type})`,
          // A parameter cannot be more available than its type.
          status: status === 'available' ? row.status : status,
        })),
      ]);
    case 'block':
      return [blockRow(entry, path)];
  }
}

function keyRow(key: Key, path: string): KeyRow {
  const { status, meaning, note, later, autoFrom } = key;
  return { path, status, meaning, note, default: key.default, later, autoFrom };
}

function blockRow({ status, meaning, note }: Block, path: string): KeyRow {
  return { path, status, meaning, note };
}

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { renderErrorsPage } from '../errors-page.ts';
import { configJsonSchema, readConfig, resolveConfig } from './index.ts';
import type { Entry, Key, Keys } from './key.ts';
import { renderKeysPage } from './keys-page.ts';
import { listKeys } from './list-keys.ts';
import { aliases, misplaced, table } from './table.ts';

const repository = (path: string) =>
  readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const golden: { keys: Record<string, unknown> } = JSON.parse(
  repository('goldens/config-keys.json'),
);

function find(path: string): Entry | undefined {
  let keys: Keys = table;
  let entry: Entry | undefined;
  for (const name of path.split('.')) {
    entry = Object.hasOwn(keys, name) ? keys[name] : undefined;
    keys = entry?.kind === 'section' ? entry.keys : {};
  }
  return entry;
}

function everyKey(keys: Keys, path: string): [string, Key][] {
  return Object.entries(keys).flatMap(([name, entry]): [string, Key][] => {
    const here = path === '' ? name : `${path}.${name}`;
    if (entry.kind === 'key') return [[here, entry]];
    if (entry.kind === 'section') return everyKey(entry.keys, here);
    if (entry.kind === 'choice')
      return Object.entries(entry.variants).flatMap(([type, { params }]) =>
        everyKey(params, `${here}.${type}`),
      );
    return [];
  });
}

describe('the table', () => {
  it('has every key of DeepSpeed, with its default', () => {
    // Here null means "decided by other keys" or "a built-in list".
    const decidedElsewhere = ['zero_optimization.overlap_comm'];
    const differing: unknown[] = [];
    for (const [path, expected] of Object.entries(golden.keys)) {
      const entry = find(path);
      if (entry === undefined) differing.push([path, 'missing']);
      else if (
        entry.kind === 'key' &&
        expected !== 'not a scalar' &&
        !decidedElsewhere.includes(path)
      ) {
        if (JSON.stringify(entry.default) !== JSON.stringify(expected))
          differing.push([path, entry.default, expected]);
      }
    }
    expect(differing).toEqual([]);
  });

  it('accepts each of its own defaults', () => {
    const wrong = everyKey(table, '').filter(
      ([, key]) => !key.schema.safeParse(key.default).success,
    );
    expect(wrong).toEqual([]);
  });

  it('says why wherever a key has no effect or will never exist', () => {
    const silent = listKeys().filter(
      ({ status, note, path }) =>
        ['accepted', 'ignored', 'never'].includes(status) &&
        note === undefined &&
        !path.includes('('),
    );
    expect(silent).toEqual([]);
  });

  it('resolves to exactly its own keys', () => {
    const config = resolveConfig(readConfig({ train_batch_size: 1 }), { worldSize: 1 });
    const own = Object.keys(config).filter((key) => key !== 'extensions' && key !== 'provenance');
    expect(own.sort()).toEqual(Object.keys(table).sort());
  });

  it('accepts a config that writes out every default', () => {
    const written = (keys: Keys): Record<string, unknown> =>
      Object.fromEntries(
        Object.entries(keys).flatMap(([name, entry]) => {
          if (entry.kind === 'key') return [[name, entry.default]];
          // The presence of an optional section switches it on.
          const filled = entry.kind === 'section' && !entry.optional;
          return filled ? [[name, written(entry.keys)]] : [];
        }),
      );
    const raw = readConfig({ ...written(table), train_batch_size: 4 });
    const { provenance, ...explicit } = resolveConfig(raw, { worldSize: 2 });
    expect(provenance.warnings).toEqual([]);
    const { provenance: _, ...implicit } = resolveConfig(readConfig({ train_batch_size: 4 }), {
      worldSize: 2,
    });
    expect(explicit).toEqual(implicit);
  });

  it('sends aliases and misplaced names to keys that exist', () => {
    for (const target of [...Object.values(aliases), ...Object.values(misplaced)]) {
      const known = find(target) ?? listKeys().find(({ path }) => path.startsWith(`${target} (`));
      expect(known, target).toBeDefined();
    }
  });
});

describe('the JSON Schema', () => {
  it('has the same keys at every level', () => {
    const compare = (keys: Keys, schema: { properties: Record<string, never> }) => {
      expect(Object.keys(schema.properties).sort()).toEqual(Object.keys(keys).sort());
      for (const [name, entry] of Object.entries(keys))
        if (entry.kind === 'section') compare(entry.keys, schema.properties[name]!);
    };
    compare(table, configJsonSchema() as never);
  });

  it('carries type, range, default and "auto"', () => {
    const schema = configJsonSchema() as { properties: Record<string, Record<string, unknown>> };
    expect(schema.properties.gradient_clipping).toMatchObject({
      default: 1,
      anyOf: [{ type: 'number', minimum: 0 }, { const: 'auto' }],
    });
  });
});

describe('generated pages are current (else run npm run docs)', () => {
  it('docs/deepspeed-keys.md', () => {
    expect(repository('docs/deepspeed-keys.md')).toBe(renderKeysPage());
  });

  it('docs/errors.md', () => {
    expect(repository('docs/errors.md')).toBe(renderErrorsPage());
  });
});

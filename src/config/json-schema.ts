/** The table as a JSON Schema, for editors that complete and check `ds_config.json`. */
import { z } from 'zod';
import type { Entry, Key, Keys } from './key.ts';
import { table } from './table.ts';

type Json = Record<string, unknown>;

/** JSON Schema (draft 2020-12) of a config file. Every key may also be "auto" where something fills it. */
export function configJsonSchema(): Json {
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'DeepSpeed config',
    ...objectSchema(table),
  };
}

function objectSchema(keys: Keys): Json {
  const properties = Object.entries(keys).map(([name, entry]) => [name, entrySchema(entry)]);
  return {
    type: 'object',
    properties: Object.fromEntries(properties),
    additionalProperties: false,
  };
}

function entrySchema(entry: Entry): Json {
  switch (entry.kind) {
    case 'key':
      return keySchema(entry);
    case 'section':
      return { description: entry.meaning, ...objectSchema(entry.keys) };
    case 'choice':
      return {
        description: entry.meaning,
        oneOf: Object.entries(entry.variants).map(([type, variant]) => ({
          type: 'object',
          description: describe(variant.meaning, variant.status),
          properties: { type: { const: type }, params: objectSchema(variant.params) },
          required: ['type'],
          additionalProperties: false,
        })),
      };
    case 'block':
      return { description: describe(entry.meaning, entry.status), type: 'object' };
  }
}

function keySchema(key: Key): Json {
  const { $schema: _, ...schema } = z.toJSONSchema(key.schema, { io: 'output' }) as Json;
  const auto = key.autoFrom === undefined ? schema : { anyOf: [schema, { const: 'auto' }] };
  return {
    description: describe(key.meaning, key.status, key.note),
    default: key.default,
    ...auto,
  };
}

function describe(meaning: string, status: string, note?: string): string {
  const suffix =
    status === 'available' ? '' : ` (${status}${note === undefined ? '' : `: ${note}`})`;
  return meaning + suffix;
}

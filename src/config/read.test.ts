import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import Hjson from 'hjson';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { locateKeys } from './hjson-keys.ts';
import { readConfig, requireSameConfig } from './read.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'dsjs-config-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(text: string): string {
  const path = join(folder, 'ds_config.json');
  writeFileSync(path, text);
  return path;
}

const commented = `{
  # batch
  train_batch_size: 8   // all ranks
  /* optimizer: { type: "SGD" } */
  "optimizer": {
    type: AdamW
    "params": { "lr": 1e-3, "betas": [0.9, 0.95] },
  }
}`;
const plain = {
  train_batch_size: 8,
  optimizer: { type: 'AdamW', params: { lr: 1e-3, betas: [0.9, 0.95] } },
};

describe('readConfig', () => {
  it('reads HJSON with comments, and knows the lines', () => {
    const raw = readConfig(file(commented));
    expect(raw.values).toEqual(plain);
    expect(raw.source).toBe('ds_config.json');
    expect(raw.lines.get('optimizer.params.lr')).toBe(7);
  });

  it('takes an object, and does not hold on to it', () => {
    const given = structuredClone(plain);
    const raw = readConfig(given);
    given.train_batch_size = 16;
    expect(raw.values).toEqual(plain);
  });

  it('takes JSON in url-safe base64', () => {
    // The bytes give both characters in which the url-safe alphabet differs.
    const text = JSON.stringify({ note: '??>>~~ÿÿ' });
    const encoded = Buffer.from(text).toString('base64url');
    expect(encoded).toMatch(/[-_]/);
    expect(readConfig(encoded).values).toEqual(JSON.parse(text));
  });

  it('names a file that is not there, and a folder', () => {
    expect(() => readConfig(join(folder, 'absent.json'))).toThrowError(
      expect.objectContaining({ code: 'CONFIG_NOT_FOUND' }),
    );
    expect(() => readConfig(folder)).toThrowError(
      expect.objectContaining({
        code: 'CONFIG_NOT_FOUND',
        message: expect.stringContaining('EISDIR'),
      }),
    );
  });

  it.each(['{ "a": [1, 2', '{ a: }}', '{{', '"just a string"', '[1, 2]'])(
    'refuses %s as a syntax error',
    (text) => {
      expect(() => readConfig(file(text))).toThrowError(
        expect.objectContaining({ code: 'CONFIG_SYNTAX' }),
      );
    },
  );

  it.each([
    ['{ "a": 1, "a": 2 }', 'a (lines 1 and 1)'],
    ['{ fp16: { enabled: true }\n bf16: { enabled: true }\n fp16: {} }', 'fp16 (lines 1 and 3)'],
    ['{ z: { "stage": 1,\n stage: 1 } }', 'z.stage (lines 1 and 2)'],
    ['a: 1\nb: 2\na: 3', 'a (lines 1 and 3)'],
    ['{ l: [ {x: 1}, {x: 1, "\\u0078": 2} ] }', 'l.1.x (lines 1 and 1)'],
  ])('refuses a key given twice: %s', (text, duplicate) => {
    expect(() => readConfig(file(text))).toThrowError(
      expect.objectContaining({ message: expect.stringContaining(duplicate) }),
    );
  });

  it.each([
    '{ a: {x: 1}, b: {x: 1} }',
    '{ "a.x": 1, a: {x: 1} }',
    '{ a: [ {x: 1}, {x: 2} ] }',
    '{ a: "a: 1" # a: 2\n b: a: 3 }\n }',
    "{ a: '''\n b: 1\n b: 2\n''' }",
    '{ a: 1 // a: 2\n /* a: 3 */ }',
  ])('finds no duplicate in %s', (text) => {
    expect(() => readConfig(file(text))).not.toThrow();
  });
});

function pathsOf(node: unknown, path: string): string[] {
  if (Array.isArray(node)) return node.flatMap((child, i) => pathsOf(child, `${path}.${i}`));
  if (typeof node !== 'object' || node === null) return [];
  return Object.entries(node).flatMap(([name, child]) => {
    const full = path === '' ? name : `${path}.${name}`;
    return [full, ...pathsOf(child, full)];
  });
}

/** hjson writes a few odd strings in a way that it does not read; the scanner sees accepted text only. */
function parsedOrUndefined(text: string): unknown {
  try {
    return Hjson.parse(text);
  } catch {
    return undefined;
  }
}

it('locateKeys finds exactly the keys that the parser finds, in any notation', () => {
  const document = fc.object({
    maxDepth: 3,
    key: fc.string({ minLength: 1, maxLength: 6 }).filter((name) => name !== '__proto__'),
    values: [
      fc.string(),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.boolean(),
      fc.constant(null),
    ],
  });
  const notations = [
    (value: object) => JSON.stringify(value),
    (value: object) => JSON.stringify(value, null, 2),
    (value: object) => Hjson.stringify(value),
    (value: object) => Hjson.stringify(value, { separator: true, quotes: 'all' }),
    (value: object) => Hjson.stringify(value, { bracesSameLine: true, multiline: 'off' }),
  ];
  fc.assert(
    fc.property(document, fc.constantFrom(...notations), (value, notation) => {
      const text = notation(value);
      const parsed = parsedOrUndefined(text);
      fc.pre(parsed !== undefined);
      const found = locateKeys(text).map(({ path }) => path);
      expect(found).toEqual(pathsOf(parsed, ''));
    }),
    { numRuns: 1000 },
  );
});

describe('requireSameConfig', () => {
  it('accepts the same content in another notation and order', () => {
    const { optimizer, train_batch_size } = plain;
    const reordered = readConfig({ optimizer, train_batch_size });
    expect(() => requireSameConfig(reordered, readConfig(file(commented)))).not.toThrow();
  });

  it('names the keys that differ', () => {
    const other = readConfig({ ...plain, train_batch_size: 4, steps_per_print: 1 });
    expect(() => requireSameConfig(readConfig(plain), other)).toThrowError(
      expect.objectContaining({
        code: 'CONFIG_CONFLICT',
        message: expect.stringContaining('steps_per_print, train_batch_size'),
      }),
    );
  });
});

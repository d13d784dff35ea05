import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resolveScript } from './script.ts';

let folder: string;
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'script-')));
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (name: string) => {
  const path = join(folder, name);
  writeFileSync(path, '');
  return path;
};

describe('resolveScript', () => {
  it.each(['a.js', 'a.mjs', 'a.cjs'])('runs %s as it is', (name) => {
    const path = write(name);
    expect(resolveScript(path, false)).toEqual({ path, nodeFlags: [] });
  });

  const strips = Boolean((process.features as { typescript?: unknown }).typescript);
  it.each(['a.ts', 'a.mts', 'a.cts'])(
    "runs %s by Node itself, or by the user's own tsx",
    (name) => {
      const path = write(name);
      const tsx = join(folder, 'node_modules', 'tsx');
      mkdirSync(tsx, { recursive: true });
      writeFileSync(join(tsx, 'package.json'), '{ "name": "tsx", "exports": "./loader.mjs" }');
      writeFileSync(join(tsx, 'loader.mjs'), '');
      const loader = pathToFileURL(join(tsx, 'loader.mjs')).href;
      expect(resolveScript(path, false).nodeFlags).toEqual(strips ? [] : ['--import', loader]);
    },
  );

  it('refuses what is not there, not a file, or not a script', () => {
    const refusal = (name: string) => {
      try {
        return resolveScript(name, false);
      } catch (error) {
        return (error as { code: string }).code;
      }
    };
    expect(refusal(join(folder, 'missing.js'))).toBe('SCRIPT_NOT_FOUND');
    expect(refusal(folder)).toBe('SCRIPT_NOT_FOUND');
    expect(refusal(write('train.py'))).toBe('SCRIPT_NOT_RUNNABLE');
    expect(refusal(write('train'))).toBe('SCRIPT_NOT_RUNNABLE');
  });
});

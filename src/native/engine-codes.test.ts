import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { errorCodes } from '../errors.ts';
import { engineCodes } from './engine-codes.ts';
import { isNativeError, renderNativeError } from './native-error.ts';

const addon = new URL('../../addon/', import.meta.url);

/** First words in capitals of what is thrown anywhere in the engine. */
function thrownCodes(): Set<string> {
  const sources = readdirSync(addon, { recursive: true, encoding: 'utf8' }).filter(
    (path) => /\.(cc|h)$/.test(path) && !/(_test\.cc|testing\.h)$/.test(path),
  );
  const codes = sources.flatMap((path) => {
    const text = readFileSync(new URL(path, addon), 'utf8');
    return [...text.matchAll(/(?:EngineError|fail|code =)[( ]\s*"([A-Z_]+)"/g)].map(
      ([, code]) => code!,
    );
  });
  return new Set(codes);
}

it('every code that the engine throws is told, and no other', () => {
  const thrown = thrownCodes();
  const told = { ...errorCodes, ...engineCodes };
  expect([...thrown].filter((code) => !Object.hasOwn(told, code))).toEqual([]);
  expect(Object.keys(engineCodes).filter((code) => !thrown.has(code))).toEqual([]);
});

it('an error of the engine is shown with its fix', () => {
  const error = Object.assign(new Error('rank 1 has left'), { name: 'NativeError', code: 'LIMIT' });
  expect(isNativeError(error) && renderNativeError(error)).toBe(
    `rank 1 has left\n  fix: ${engineCodes.LIMIT.fix}\n  (LIMIT)`,
  );
  const shared = Object.assign(error, { code: 'OUT_OF_MEMORY' });
  expect(renderNativeError(shared)).toContain(errorCodes.OUT_OF_MEMORY.fix);
});

import { spawnSync } from 'node:child_process';
import { afterEach, expect, it, vi } from 'vitest';
import { isNurseryFlag, nurseryFlags } from './nursery.ts';

afterEach(() => vi.unstubAllEnvs());

it('ranks that take all cores collect without helpers', () => {
  vi.stubEnv('NODE_OPTIONS', '');
  expect(nurseryFlags(1, 2)).toEqual(['--max-semi-space-size=8']);
  expect(nurseryFlags(2, 2)).toEqual(['--max-semi-space-size=8', '--no-parallel-scavenge']);
  expect(nurseryFlags(2, 2).every(isNurseryFlag)).toBe(true);
  expect(['--import', '--max-old-space-size=8'].some(isNurseryFlag)).toBe(false);
});

it('the user decides', () => {
  vi.stubEnv('NODE_OPTIONS', '--no-warnings --max_semi_space_size=64');
  expect(nurseryFlags(2, 2)).toEqual([]);
});

it('Node takes them', () => {
  vi.stubEnv('NODE_OPTIONS', '');
  const { status, stderr } = spawnSync(process.execPath, [...nurseryFlags(2, 2), '-e', '0']);
  expect([status, String(stderr)]).toEqual([0, '']);
});

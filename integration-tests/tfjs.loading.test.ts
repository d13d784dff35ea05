/** How scripts load TensorFlow.js, and what reaches them beside it. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { overRanks } from './tfjs.run.ts';

/** Inside the repository, where copies find what they need. */
const runs = fileURLToPath(new URL('../runs/', import.meta.url));
let folder: string;
beforeEach(() => {
  mkdirSync(runs, { recursive: true });
  folder = mkdtempSync(`${runs}load-`);
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const launch = (name: string) => overRanks(2, 'loading.cjs', [name, folder]);

it.each([
  ['version', 'TensorFlow.js core is of version 3.21.0; supported are >=4.22.0 <4.23.0'],
  ['copies', 'two copies of TensorFlow.js (core) are loaded:'],
  ['bundle', 'TensorFlow.js was loaded from a bundle'],
  ['stdin', 'reads standard input, which only rank 0 has'],
  ['stdinFile', 'reads standard input, which only rank 0 has'],
  ['stdinName', 'reads standard input, which only rank 0 has'],
])('refuses %s', async (name, text) => {
  const { status, stderr } = await launch(name);
  expect(stderr).toContain(text);
  expect(status).toBe(1);
});

it('a worker of a rank trains alone', async () => {
  const run = await launch('worker');
  expect(run.stderr).not.toContain('Error');
  expect(run.results()).toEqual({ epochs: 2 });
});

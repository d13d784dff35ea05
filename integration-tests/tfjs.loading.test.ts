/** How scripts load TensorFlow.js, and what reaches them beside it. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { overRanks, resultsIn, tfjsFixture } from './tfjs.run.ts';

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

it.each([
  ['worker', 'a worker of rank 0 trains a model: it is no rank'],
  ['child', /the child process \d+ of rank 0 trains a model: it is no rank/],
])('a %s of a rank trains alone, and is named once', async (name, note) => {
  // As it is built: from sources, tsx loads nothing into workers.
  const words = ['dist/cli/deepspeed.js', '--num_procs', '2', tfjsFixture('loading.cjs'), name];
  const root = fileURLToPath(new URL('..', import.meta.url));
  const { stdout, stderr } = await promisify(execFile)(process.execPath, words, { cwd: root });
  expect(resultsIn(stdout)).toEqual({ epochs: 2 });
  expect(stderr).toMatch(note);
  expect(stderr.match(/trains a model/g)).toHaveLength(1);
});

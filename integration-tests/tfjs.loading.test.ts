/** How scripts load TensorFlow.js, and what reaches them beside it. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { alone, difference, overRanks, resultsIn } from './tfjs.run.ts';

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
])('refuses %s', async (name, text) => {
  const { status, stderr } = await launch(name);
  expect(stderr).toContain(text);
  expect(status).toBe(1);
});

it('refuses to read standard input on any rank but 0, in whatever way', async () => {
  const { status, stderr } = await launch('stdin');
  const said = (way: number, what: string) => stderr.includes(`[rank 1] way ${way} ${what}`);
  for (const way of [0, 1, 2, 3]) {
    expect(said(way, 'is refused: STDIN_ON_RANK'), `way ${way}`).toBe(true);
    expect(said(way, 'reads')).toBe(false);
  }
  expect(stderr).toContain('reads standard input, which only rank 0 has');
  expect(status).toBe(1);
});

it.each([
  ['worker', 'a worker of rank 0 trains a model: it is no rank'],
  ...['child', 'spawn', 'exec', 'execFileSync'].map((name): [string, RegExp] => [
    name,
    /the child process \d+ of rank 0 trains a model: it is no rank/,
  ]),
])('what a rank starts by %s trains alone, and is named once', async (name, note) => {
  const { stdout, stderr, status } = await launch(name);
  expect(status).toBe(0);
  expect(resultsIn(stdout)).toEqual({ epochs: 2 });
  expect(stderr).toMatch(note);
  expect(stderr.match(/trains a model/g)).toHaveLength(1);
});

it('an ES module is trained as it is', async () => {
  const words = ['--epochs', '4'];
  const one = await alone('module.mjs', ...words);
  expect(one.words).toEqual(words);
  const two = (await overRanks(2, 'module.mjs', words)).results();
  expect(difference(one, two)).toBeLessThan(3e-5);
});

it('a copy of the Math.random that was there when TensorFlow.js was loaded is followed', async () => {
  const { stdout, stderr } = await launch('heldRandom');
  expect(resultsIn(stdout), stderr).toEqual({ epochs: 2 });
});

it('ranks of a launcher that a rank has started are ranks, and said to be apart', async () => {
  const { stdout, stderr } = await launch('launcher');
  expect(resultsIn(stdout)).toEqual({ epochs: 2 });
  expect(stderr).not.toContain('trains a model');
  expect(stderr.match(/rank 0 of another run started this one/g)).toHaveLength(1);
});

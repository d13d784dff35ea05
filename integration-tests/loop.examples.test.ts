/** The examples of hand-written loops, over the package: any number of ranks learns the same. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { mustRun } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const run = (ranks: number, file: string) =>
  mustRun(
    process.execPath,
    [
      join(root, 'dist/cli/deepspeed.js'),
      '-q',
      '--num_procs',
      String(ranks),
      `examples/loops/${file}`,
    ],
    { cwd: root },
  );

it('plain.mjs', async () => {
  const one = await run(1, 'plain.mjs');
  expect(one).toMatch(/^loss 0\.0\d{3}, gradient norm 0\.\d{4}$/m);
  // Equal parts: the mean over ranks is the mean over rows.
  expect(await run(2, 'plain.mjs')).toBe(one);
  expect(await run(3, 'plain.mjs')).toBe(one);
});

it('jax.mjs', async () => {
  for (const ranks of [1, 2]) {
    const [, first, last] = /loss from (\S+) to (\S+)/.exec(await run(ranks, 'jax.mjs'))!;
    expect(Number(last)).toBeLessThan(Number(first) / 4);
  }
});

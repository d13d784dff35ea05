/** The machines of other tests and of benches: nothing of them stays. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { noNamespaces } from './namespaces.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const script = fileURLToPath(new URL('fixtures/machines.ts', import.meta.url));

const list = () => execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' });

/** A process that makes machines, and their names. */
async function maker() {
  const child = spawn(process.execPath, ['--import', 'tsx', script], { cwd: root });
  const ended = once(child, 'exit');
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const names = line.toString().trim().split(' ');
  for (const name of names) expect(list()).toContain(name);
  return { child, ended, names };
}

it.skipIf(noNamespaces !== null)('a signal that ends their maker takes them away', async () => {
  const { child, ended, names } = await maker();
  child.kill('SIGTERM');
  expect(await ended).toEqual([null, 'SIGTERM']);
  for (const name of names) expect(list()).not.toContain(name);
});

it.skipIf(noNamespaces !== null)(
  'what a killed one has left, the next one takes away',
  async () => {
    const [killed, other] = [await maker(), await maker()];
    killed.child.kill('SIGKILL');
    await killed.ended;
    const next = await maker();
    for (const name of killed.names) expect(list()).not.toContain(name);
    for (const name of other.names) expect(list()).toContain(name);
    for (const { child, ended } of [other, next]) {
      child.kill('SIGTERM');
      await ended;
    }
  },
);

/** The machines of other tests and of benches: nothing of them stays. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { noNamespaces } from './namespaces.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const script = fileURLToPath(new URL('fixtures/machines.ts', import.meta.url));

it.skipIf(noNamespaces !== null)('a signal that ends their maker takes them away', async () => {
  const child = spawn(process.execPath, ['--import', 'tsx', script], { cwd: root });
  const ended = once(child, 'exit');
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const names = line.toString().trim().split(' ');
  const list = () => execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' });
  for (const name of names) expect(list()).toContain(name);
  child.kill('SIGTERM');
  expect(await ended).toEqual([null, 'SIGTERM']);
  for (const name of names) expect(list()).not.toContain(name);
});

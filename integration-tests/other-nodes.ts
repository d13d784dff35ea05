import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mustRun } from './run-command.ts';

/** One release of each line beside Node 20 that package.json supports. */
export const otherNodeVersions = ['22.22.3', '24.20.0'];

const store = fileURLToPath(new URL('../build/nodes', import.meta.url));

/**
 * The `node` binary of a version. npm has it as a package; it is fetched when first asked for and kept in
 * build/nodes. As development dependencies both would cost every `npm ci` 370 MB.
 */
export async function installNode(version: string): Promise<string> {
  const target = join(store, version);
  const name = `node-${process.platform}-${process.arch}`;
  const binary = join(target, 'node_modules', name, 'bin', 'node');
  if (existsSync(binary)) return binary;
  await mkdir(store, { recursive: true });
  const temporary = await mkdtemp(join(store, 'fetching-'));
  try {
    const flags = ['--no-audit', '--no-fund', '--no-save', '--ignore-scripts'];
    await mustRun('npm', ['install', ...flags, '--prefix', temporary, `${name}@${version}`], {
      cwd: temporary,
    });
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return binary;
}

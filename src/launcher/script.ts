/** From what the user named (a file or a package) to the arguments of `node` that run it. */
import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { DeepSpeedError } from '../errors.ts';

export interface Script {
  /** Absolute path of the file that every rank runs. */
  path: string;
  /** Flags of `node` that come before it: what a TypeScript file needs. */
  nodeFlags: string[];
}

const JAVASCRIPT = ['.js', '.mjs', '.cjs'];
const TYPESCRIPT = ['.ts', '.mts', '.cts'];

/**
 * @param name a file, relative to the working directory; with `asModule` a package specifier,
 * resolved as `import` would from the working directory.
 * @throws DeepSpeedError SCRIPT_NOT_FOUND, SCRIPT_NOT_RUNNABLE.
 */
export function resolveScript(name: string, asModule: boolean): Script {
  const path = asModule ? resolveModule(name) : resolveFile(name);
  const extension = extname(path);
  if (TYPESCRIPT.includes(extension)) return { path, nodeFlags: typescriptFlags(path) };
  if (JAVASCRIPT.includes(extension)) return { path, nodeFlags: [] };
  throw new DeepSpeedError(
    'SCRIPT_NOT_RUNNABLE',
    `${name} is neither JavaScript nor TypeScript (its name ends in "${extension}")`,
    { data: { path } },
  );
}

function resolveFile(name: string): string {
  const path = resolve(name);
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats?.isFile()) return path;
  const found = stats === undefined ? 'there is no such file' : 'it is not a file';
  throw new DeepSpeedError('SCRIPT_NOT_FOUND', `cannot run ${name}: ${found}`, { data: { path } });
}

/** Asks Node itself, in the working directory: `exports` conditions are those of `import`. */
function resolveModule(specifier: string): string {
  const source = 'process.stdout.write(import.meta.resolve(process.argv[1]))';
  const node = spawnSync(process.execPath, ['--input-type=module', '-e', source, specifier], {
    encoding: 'utf8',
  });
  if (node.status === 0 && node.stdout.startsWith('file:')) {
    const path = fileURLToPath(node.stdout);
    if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path;
  }
  const reason = /^.*Error.*$/m.exec(node.stderr ?? '')?.[0] ?? 'it is not a file';
  throw new DeepSpeedError('SCRIPT_NOT_FOUND', `cannot run the module ${specifier}: ${reason}`, {
    fix: 'Install the package in this project; for a file, leave out --module.',
    data: { specifier },
  });
}

/**
 * Node strips types itself from 22.18 on; before, tsx does it: the user's, then the one beside us.
 *
 * @returns flags for `node`; also used for this package's own sources when it runs from them.
 */
export function typescriptFlags(path: string): string[] {
  const { typescript } = process.features as { typescript?: 'strip' | 'transform' | false };
  if (typescript) return [];
  for (const from of [path, join(process.cwd(), 'package.json'), fileURLToPath(import.meta.url)])
    try {
      return ['--import', pathToFileURL(createRequire(from).resolve('tsx')).href];
    } catch {
      // Not installed there: try the next place.
    }
  throw new DeepSpeedError(
    'SCRIPT_NOT_RUNNABLE',
    `${path} is TypeScript, and Node ${process.versions.node} needs tsx to run it`,
    { fix: 'npm install --save-dev tsx, or use Node 22.18 or newer.', data: { path } },
  );
}

// Compiles src to dist, adds the build id and the config's JSON Schema, marks the command-line tools
// executable. dist is replaced whole at the end: a process that runs from it never sees half of it.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildId, root } from './build-id.mjs';

const require = createRequire(import.meta.url);
const output = join(root, `dist.new-${process.pid}`);
const replaced = join(root, `dist.old-${process.pid}`);
process.on('exit', () => {
  for (const folder of [output, replaced]) rmSync(folder, { recursive: true, force: true });
});

const tsc = spawnSync(
  process.execPath,
  [require.resolve('typescript/bin/tsc'), '-p', 'tsconfig.build.json', '--outDir', output],
  { cwd: root, stdio: 'inherit' },
);
if (tsc.status !== 0) process.exit(tsc.status ?? 1);

// The id of the engine that was built, where there is one: sources may have moved on since.
const stamp = join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'build-id');
const id = existsSync(stamp) ? readFileSync(stamp, 'utf8') : buildId();
writeFileSync(join(output, 'build-id.json'), `${JSON.stringify({ buildId: id })}\n`);
const { configJsonSchema } = await import(pathToFileURL(join(output, 'config', 'index.js')).href);
writeFileSync(
  join(output, 'ds_config.schema.json'),
  `${JSON.stringify(configJsonSchema(), null, 1)}\n`,
);
const cli = join(output, 'cli');
for (const name of readdirSync(cli)) if (name.endsWith('.js')) chmodSync(join(cli, name), 0o755);

const dist = join(root, 'dist');
if (existsSync(dist)) renameSync(dist, replaced);
renameSync(output, dist);

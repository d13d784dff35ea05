// Compiles src to dist, adds the build id, marks the command-line tools executable.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { buildId, root } from './build-id.mjs';

const require = createRequire(import.meta.url);
rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = spawnSync(
  process.execPath,
  [require.resolve('typescript/bin/tsc'), '-p', 'tsconfig.build.json'],
  {
    cwd: root,
    stdio: 'inherit',
  },
);
if (tsc.status !== 0) process.exit(tsc.status ?? 1);
writeFileSync(join(root, 'dist', 'build-id.json'), `${JSON.stringify({ buildId: buildId() })}\n`);
const { configJsonSchema } = await import('../dist/config/index.js');
writeFileSync(
  join(root, 'dist', 'ds_config.schema.json'),
  `${JSON.stringify(configJsonSchema(), null, 1)}\n`,
);
const cli = join(root, 'dist', 'cli');
if (existsSync(cli))
  for (const name of readdirSync(cli)) if (name.endsWith('.js')) chmodSync(join(cli, name), 0o755);

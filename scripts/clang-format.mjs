// Checks the layout of the C++ sources, or with --write mends it. Without clang-format on the machine
// it says so and checks nothing: only contributors to addon/ need it.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './build-id.mjs';

const write = process.argv.includes('--write');
const folders = ['addon', 'bench'];

const probe = spawnSync('clang-format', ['--version']);
if (probe.error || probe.status !== 0) {
  console.log(
    'clang-format is not installed: C++ sources are not checked (apt-get install clang-format)',
  );
} else {
  const sources = folders.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((name) => /\.(cc|h)$/.test(name))
      .map((name) => join(folder, name)),
  );
  const flags = write ? ['-i'] : ['--dry-run', '--Werror'];
  const { status } = spawnSync('clang-format', [...flags, ...sources], {
    cwd: root,
    stdio: 'inherit',
  });
  process.exitCode = status ?? 1;
}

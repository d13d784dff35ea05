// Builds the C++ tests for arm64 and runs them under an emulator, so that NEON kernels and the engine's
// arm64 code are run on machines of another kind. Without the tools it says so and fails. Arguments choose
// tests by name. What it cannot show: timing, and Node itself.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { root } from './build-id.mjs';

const compiler = 'aarch64-linux-gnu-g++';
const emulator = 'qemu-aarch64';
const libraries = '/usr/aarch64-linux-gnu';
const folder = join(root, 'build', 'arm64');

for (const tool of [compiler, emulator]) {
  if (spawnSync(tool, ['--version']).status === 0) continue;
  console.error(`${tool} is not installed: apt-get install g++-aarch64-linux-gnu qemu-user`);
  process.exit(1);
}

function cmake(...args) {
  const { status, stdout, stderr } = spawnSync('cmake', args, { cwd: root, encoding: 'utf8' });
  if (status === 0) return;
  console.error(`${stdout}${stderr}`.slice(-8000));
  process.exit(1);
}

cmake(
  '-S',
  'addon',
  '-B',
  folder,
  '-DCMAKE_BUILD_TYPE=Release',
  '-DCMAKE_SYSTEM_NAME=Linux',
  '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
  `-DCMAKE_CXX_COMPILER=${compiler}`,
  '-DDSJS_TESTS=ON',
);
cmake('--build', folder, '--parallel', String(availableParallelism()));

const wanted = process.argv.slice(2);
const tests = readdirSync(join(root, 'addon'), { recursive: true })
  .filter((file) => file.endsWith('_test.cc'))
  .map((file) => basename(file, '.cc'))
  .filter((name) => wanted.length === 0 || wanted.includes(name));
const failed = tests.filter((name) => {
  const { status } = spawnSync(emulator, ['-L', libraries, join(folder, name)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  console.log(`${name}: ${status === 0 ? 'passed' : `failed (${status})`}`);
  return status !== 0;
});
if (tests.length === 0) throw new Error('no test ran');
process.exitCode = failed.length > 0 ? 1 : 0;

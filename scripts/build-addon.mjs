// Builds the native engine with cmake into prebuilds/<platform>-<arch>/deepspeed.node. Incremental: a
// prebuild whose build id matches the sources is left alone. With --tests it builds the C++ tests in the
// same folder instead, and prints that folder as its last line.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { buildId, root } from './build-id.mjs';

const require = createRequire(import.meta.url);
const id = buildId();
const target = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
const output = join(target, 'deepspeed.node');
const stamp = join(target, 'build-id');
// Only where MPI's headers are installed; what depends on it says so when it is asked for.
const mpiModule = join(target, 'deepspeed_mpi.so');
const force = process.argv.includes('--force');
const tests = process.argv.includes('--tests');

function fail(message) {
  console.error(`deepspeed-js: ${message}`);
  process.exit(1);
}

function tool(name, hint) {
  const probe = spawnSync(name, ['--version'], { encoding: 'utf8' });
  if (probe.error || probe.status !== 0)
    fail(`building the native engine needs ${name}.\n  fix: ${hint}`);
  return probe.stdout;
}

/** Headers of Node's C API come from npm: they are development dependencies of this package. */
function includeFolder(name) {
  try {
    // node-addon-api gives its folder relative to the working directory; cmake would take it as
    // relative to addon/.
    return resolve(require(name).include_dir.replaceAll('"', ''));
  } catch {
    return fail(
      `building the native engine needs the npm package ${name}.\n  fix: npm install --no-save node-api-headers node-addon-api`,
    );
  }
}

const mpiWanted = spawnSync('mpicc', ['--version']).status === 0;
const upToDate =
  !force &&
  existsSync(output) &&
  existsSync(stamp) &&
  readFileSync(stamp, 'utf8') === id &&
  existsSync(mpiModule) === mpiWanted;

if (tests || !upToDate) build();

function build() {
  const mac = process.platform === 'darwin';
  tool('cmake', mac ? 'brew install cmake' : 'apt-get install cmake   (Fedora: dnf install cmake)');
  const compiler = process.env.CXX || 'c++';
  tool(
    compiler,
    mac
      ? 'xcode-select --install'
      : 'apt-get install g++ make   (Fedora: dnf install gcc-c++ make)',
  );
  const generator = spawnSync('ninja', ['--version']).status === 0 ? 'Ninja' : 'Unix Makefiles';
  if (generator !== 'Ninja') tool('make', mac ? 'xcode-select --install' : 'apt-get install make');

  const includes = ['node-api-headers', 'node-addon-api'].map(includeFolder);
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const folder = join(
    root,
    'build',
    `${process.platform}-${process.arch}-${generator === 'Ninja' ? 'ninja' : 'make'}`,
  );

  function run(args) {
    const result = spawnSync('cmake', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
    if (result.error || result.status !== 0) {
      console.error((result.stdout ?? '').slice(-8000));
      console.error((result.stderr ?? '').slice(-8000));
      if (result.signal)
        fail(
          `the native engine was not built: cmake ${args[0]} was ended by ${result.signal}.\n  fix: A compiler that is killed usually lacked memory: free some, or build with CMAKE_BUILD_PARALLEL_LEVEL=1.`,
        );
      fail(
        `the native engine did not build (cmake ${args[0]} ended with ${result.status}).\n  A C++20 compiler is needed: g++ 11, clang 14 or newer.`,
      );
    }
  }

  console.log(`deepspeed-js: building the native engine${tests ? "'s tests" : ''}`);
  run([
    '-S',
    'addon',
    '-B',
    folder,
    '-G',
    generator,
    '-DCMAKE_BUILD_TYPE=Release',
    `-DDSJS_NAPI_INCLUDE=${includes.join(';')}`,
    `-DDSJS_BUILD_ID=${id}`,
    `-DDSJS_VERSION=${version}`,
    `-DDSJS_TESTS=${tests ? 'ON' : 'OFF'}`,
  ]);
  const targets = tests ? ['all'] : mpiWanted ? ['deepspeed', 'deepspeed_mpi'] : ['deepspeed'];
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism());
  run(['--build', folder, '--target', ...targets, '--parallel', jobs]);
  if (tests) return console.log(folder);
  mkdirSync(target, { recursive: true });
  install(join(folder, 'deepspeed.node'), output);
  rmSync(mpiModule, { force: true });
  if (mpiWanted) install(join(folder, 'deepspeed_mpi.so'), mpiModule);
  writeFileSync(stamp, id);
}

/** Never overwrites a library that a running process has mapped: writes beside it, then renames. */
function install(file, place) {
  cpSync(file, `${place}.new`);
  renameSync(`${place}.new`, place);
}

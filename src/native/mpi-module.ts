/** Where the module is that lets the engine use MPI. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeepSpeedError } from '../errors.ts';
import { buildCommand } from './build-command.ts';

const packageRoot = fileURLToPath(new URL('../..', import.meta.url)); // of src/native or dist/native

function modulePath(): string {
  const prebuilds = join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`);
  const engine = process.env.DEEPSPEED_JS_ADDON;
  return join(engine ? dirname(engine) : prebuilds, 'deepspeed_mpi.so');
}

/**
 * Path of deepspeed_mpi.so, which is built beside the engine where MPI's headers are installed.
 *
 * @throws DeepSpeedError MPI_NOT_BUILT
 */
export function requireMpiModule(): string {
  const path = modulePath();
  if (existsSync(path)) return path;
  throw new DeepSpeedError(
    'MPI_NOT_BUILT',
    `several machines need MPI, and this engine was built without: ${path} is missing`,
    {
      fix: `Run: apt-get install libopenmpi-dev openmpi-bin   (Fedora: dnf install openmpi-devel), then ${buildCommand(packageRoot, true)}; on every machine.`,
      data: { path },
    },
  );
}

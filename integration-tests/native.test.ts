/** The C++ tests of the native engine: programs that end with 0 when everything holds. */
import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, it } from 'vitest';
import { mpiEnvironment, noMpi } from './mpi.ts';
import { Machines, noNamespaces } from './namespaces.ts';
import { mustRun } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const addon = join(root, 'addon');
const programs = readdirSync(addon, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('_test.cc'))
  .map((path) => basename(path, '.cc'))
  .sort();

describe('the native engine', () => {
  let folder: string;

  beforeAll(async () => {
    const script = join(root, 'scripts', 'build-addon.mjs');
    const output = await mustRun(process.execPath, [script, '--tests'], { cwd: root });
    folder = output.trimEnd().split('\n').at(-1)!;
    if (!existsSync(folder)) throw new Error(`the build printed no folder:\n${output}`);
  }, 900_000);

  it.for(programs)('%s', async (program, { skip }) => {
    const output = await mustRun(join(folder, program), [], { cwd: root });
    const skipped = /^skipped: (.*)$/m.exec(output);
    if (skipped) skip(skipped[1]);
  });

  // The suite of group_test over MPI, on four ranks.
  it.skipIf(noMpi !== null).each([1, 2])('mpi_conformance, ranks a machine: %i', async (count) => {
    const words = ['--oversubscribe', '-n', '4', join(folder, 'mpi_conformance')];
    await mustRun('mpirun', [...words, join(folder, 'deepspeed_mpi.so'), String(count)], {
      cwd: root,
      env: mpiEnvironment,
    });
  });

  it.skipIf(noMpi !== null || noNamespaces !== null)(
    'mpi_conformance, on machines with addresses of their own',
    async () => {
      const machines = new Machines(2);
      try {
        const hosts = machines.addresses.map((address) => `${address}:2`).join(',');
        const words = ['--host', hosts, '-n', '4', '--bind-to', 'none'];
        const program = [join(folder, 'mpi_conformance'), join(folder, 'deepspeed_mpi.so'), '0'];
        await mustRun('mpirun', [...words, ...program], { cwd: root, env: machines.environment });
      } finally {
        machines.dispose();
      }
    },
  );
});

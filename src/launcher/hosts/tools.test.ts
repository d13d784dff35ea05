/** Programs that a launch over several machines needs, of which one is missing. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LauncherKind } from './commands.ts';
import { requireTools } from './launch-on-hosts.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dsjs-tools-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

/** Starts ranks on `name` where only these programs are installed. */
function requireWith(programs: readonly string[], kind: LauncherKind, name: string): void {
  for (const program of programs) {
    const path = join(folder, program);
    writeFileSync(path, '#!/bin/sh\n');
    chmodSync(path, 0o755);
  }
  vi.stubEnv('PATH', folder);
  vi.stubEnv('OMPI_MCA_plm_rsh_agent', undefined);
  vi.stubEnv('DEEPSPEED_JS_ADDON', join(folder, 'deepspeed.node')); // beside it there is no MPI module
  requireTools({
    hosts: [{ name, slots: [0], room: 1 }],
    kind,
    extra: [],
    masterAddress: null,
    linkTimeoutMs: 1000,
    variables: {},
  });
}

describe('what is not installed', () => {
  it.each([
    ['openmpi', [], 'far', 'needs mpirun', 'apt-get install openmpi-bin'],
    ['mpich', ['mpirun'], 'far', 'needs mpiexec', 'apt-get install mpich'],
    ['slurm', ['mpirun', 'ssh'], 'far', 'needs srun', 'apt-get install slurm-client'],
    ['openmpi', ['mpirun'], 'far', 'reaches far by ssh', 'apt-get install openssh-client'],
  ] as const)('%s with %j is told with its command', (kind, programs, name, message, fix) => {
    expect(() => requireWith(programs, kind, name)).toThrow(
      expect.objectContaining({
        code: 'LAUNCHER_TOOL_MISSING',
        message: expect.stringContaining(message),
        fix: expect.stringContaining(fix),
      }),
    );
  });

  it.each([
    ['openmpi', ['mpirun'], hostname()], // nobody to log in to
    ['slurm', ['srun'], 'far'],
    ['openmpi', ['mpirun', 'ssh'], 'far'],
  ] as const)('%s with %j on %s lacks MPI itself only', (kind, programs, name) => {
    expect(() => requireWith(programs, kind, name)).toThrow(
      expect.objectContaining({ code: 'MPI_NOT_BUILT' }),
    );
  });
});

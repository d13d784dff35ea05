import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { openRuntime, type Runtime, requireCommBackend, requireMemory } from './runtime.ts';

const folder = mkdtempSync(join(tmpdir(), 'dsjs-runtime-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

const gib = 2 ** 30;

/** A machine with 8 GiB free and so many ranks. */
const runtimeOf = (worldSize: number) =>
  ({
    addon: { systemLimits: () => ({ memoryAvailable: 8 * gib, memoryLimit: 16 * gib, cores: 4 }) },
    worldSize,
    run: null,
  }) as unknown as Runtime;

it('memory that a rank has its share of is fine, to the byte', () => {
  requireMemory(runtimeOf(1), 8 * gib, 'parameters', 'zero_optimization.stage');
  requireMemory(runtimeOf(4), 2 * gib, 'parameters', 'zero_optimization.stage');
});

it('too little memory says how much is needed, how much there is, and the key that lowers it', () => {
  const need = () =>
    requireMemory(runtimeOf(4), 2 * gib + 1, 'optimizer states', 'zero_optimization.stage');
  expect(need).toThrow(
    expect.objectContaining({
      code: 'OUT_OF_MEMORY',
      message:
        'optimizer states need 2.00 GiB on each of 4 ranks; 8.00 GiB are free, 2.00 GiB a rank',
      fix: expect.stringContaining('zero_optimization.stage'),
    }),
  );
});

it('a process outside the launcher stands alone, and can be closed', () => {
  const runtime = openRuntime({ threads: 1 });
  expect(runtime).toMatchObject({ rank: 0, worldSize: 1, run: null, threads: 1 });
  const allocate = () => runtime.engine.allocate(64, { category: 'inputs' });
  expect(allocate().bytes).toBe(64);
  runtime.close();
  expect(allocate).toThrow(expect.objectContaining({ code: 'DISPOSED' }));
});

describe('comm_backend', () => {
  /** As many ranks on this machine as given, of four, with shared memory of the launcher or not. */
  const started = (localSize: number, memory: object | null) =>
    ({ run: { worldSize: 4, localSize, memory } }) as unknown as Runtime;
  const byLauncher = started(4, { controlFd: 3, arenaFds: [] });
  const alone = { run: null };

  it('that is not there is told with the command that installs it, to one process, too', () => {
    vi.stubEnv('DEEPSPEED_JS_ADDON', '/nowhere/deepspeed.node');
    for (const runtime of [alone, started(2, null)])
      expect(() => requireCommBackend(runtime, 'mpi')).toThrow(
        expect.objectContaining({
          code: 'MPI_NOT_BUILT',
          fix: expect.stringContaining('apt-get install libopenmpi-dev openmpi-bin'),
        }),
      );
    for (const asked of ['shm', null] as const) requireCommBackend(alone, asked);
  });

  it('is what the ranks were started with, or an error', () => {
    // It is looked for, not loaded: that would start MPI.
    writeFileSync(join(folder, 'deepspeed_mpi.so'), '');
    vi.stubEnv('DEEPSPEED_JS_ADDON', join(folder, 'deepspeed.node'));
    for (const runtime of [alone, started(2, null), started(4, null)])
      requireCommBackend(runtime, 'mpi');
    for (const runtime of [alone, byLauncher, started(4, null)]) requireCommBackend(runtime, 'shm');
    const conflict = expect.objectContaining({ code: 'COMM_BACKEND_CONFLICT' });
    expect(() => requireCommBackend(byLauncher, 'mpi')).toThrow(conflict);
    expect(() => requireCommBackend(started(2, null), 'shm')).toThrow(conflict);
  });
});

import { expect, it } from 'vitest';
import { openRuntime, type Runtime, requireMemory } from './runtime.ts';

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

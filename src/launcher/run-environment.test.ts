import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { packageVersion } from './package-version.ts';
import { getRunEnvironment, RANK_PID_VARIABLE, type RunEnvironment } from './run-environment.ts';

// Without a launcher; what a launcher brings about is tested with real ranks.
vi.mock('node:worker_threads', () => ({ isMainThread: true }));

const store = Symbol.for('deepspeed-js.run');
const holder = globalThis as { [store]?: RunEnvironment };

describe('getRunEnvironment', () => {
  beforeEach(() => {
    for (const name of ['RANK', 'WORLD_SIZE', RANK_PID_VARIABLE]) vi.stubEnv(name, undefined);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    delete holder[store];
  });

  it('is null in a process on its own', () => {
    expect(getRunEnvironment()).toBeNull();
    vi.stubEnv('RANK', '0');
    vi.stubEnv('WORLD_SIZE', '1');
    expect(getRunEnvironment()).toBeNull();
  });

  it('refuses ranks that were set up by hand, and names the command', () => {
    vi.stubEnv('RANK', '1');
    vi.stubEnv('WORLD_SIZE', '4');
    expect(() => getRunEnvironment()).toThrow(
      expect.objectContaining({
        code: 'LAUNCHER_REQUIRED',
        fix: expect.stringContaining('npx deepspeed-js --num_procs 4'),
      }),
    );
  });

  it('is null in a child process of a rank, which inherits RANK', () => {
    vi.stubEnv('RANK', '1');
    vi.stubEnv('WORLD_SIZE', '4');
    vi.stubEnv(RANK_PID_VARIABLE, '1234');
    expect(getRunEnvironment()).toBeNull();
  });

  it('refuses the run of a launcher of another version', () => {
    const run = { version: packageVersion, rank: 1 } as RunEnvironment;
    holder[store] = run;
    expect(getRunEnvironment()).toBe(run);
    holder[store] = { ...run, version: '0.0.0' };
    expect(() => getRunEnvironment()).toThrow('the launcher is deepspeed-js 0.0.0');
  });
});

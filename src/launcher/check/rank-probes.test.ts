/** Probes among ranks of this machine: what their time limit counts, and how they end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it, vi } from 'vitest';
import { typescriptFlags } from '../script.ts';
import type { RankJob } from './rank-launch.ts';
import { RankProbes } from './rank-probes.ts';

afterEach(() => {
  vi.useRealTimers();
});

it('the time limit of a measurement begins when all ranks are there', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const limit = 700;
  const probes = new RankProbes(2, limit);
  const measured = probes.measure([[0, 1]], { sizes: [4096], enoughMs: 0 });
  while (vi.getTimerCount() === 0) await new Promise(setImmediate);
  // The ranks' processes have only just been asked for.
  vi.advanceTimersByTime(2 * limit);
  const [probe] = await measured;
  await probes.close();
  expect(probe).toMatchObject({ error: null, readings: [{ bytes: 4096 }] });
});

it('ranks share cores when there are more of them', () => {
  expect(new RankProbes(1, 1000).sharesCores).toBe(false);
  expect(new RankProbes(4096, 1000).sharesCores).toBe(true);
});

it('a probe ends, and its ranks with it, when nobody holds its input any more', async () => {
  const path = fileURLToPath(new URL('rank-launch.ts', import.meta.url));
  // Minutes of work.
  const plan = { sizes: Array<number>(10_000).fill(1 << 20), enoughMs: Number.MAX_VALUE };
  const job: RankJob = { ranks: 2, cores: null, hosts: null, plan };
  const child = spawn(process.execPath, [...typescriptFlags(path), path, JSON.stringify(job)]);
  await once(child.stdout, 'data'); // all are there
  child.stdin.end();
  // Rank 0 holds the output as well.
  const [status] = await once(child, 'close');
  expect(status).toBe(1);
});

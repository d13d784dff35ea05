/** Ranks that srun starts, on a Slurm of one node: by the launcher, and by hand. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CheckReport } from '../src/launcher/index.ts';
import { fixture, runLauncher } from './launcher.run.ts';
import { mpiEnvironment, noMpi } from './mpi.ts';
import { mustRun } from './run-command.ts';
import { noSlurm, Slurm } from './slurm.ts';
import { temporaryFolder } from './training.ranks.ts';

const script = fixture('on-hosts.ts');
const root = fileURLToPath(new URL('..', import.meta.url));
const tsx = join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs');

describe.skipIf(noMpi !== null || noSlurm !== null)('srun', { timeout: 120_000 }, () => {
  const slurm = new Slurm();
  let hostfile: string;
  beforeAll(async () => {
    await slurm.start();
    hostfile = join(temporaryFolder(), 'hosts');
    writeFileSync(hostfile, `${slurm.nodes[0]} slots=3\n`);
  });
  afterAll(() => slurm.dispose());

  const env = () => ({ ...mpiEnvironment, ...slurm.environment });
  const launch = (...words: string[]) =>
    runLauncher(
      ['--hostfile', hostfile, '--force_multi', '--launcher', 'slurm', script, ...words],
      { env: env() },
    );

  it('starts the ranks of the launcher, which add their numbers', async () => {
    const { status, stdout, stderr } = await launch('ok');
    expect(stdout).toContain('sum 3 true of 3, local 0/3, host 0/1');
    for (const rank of [1, 2]) {
      expect(stderr).toContain(`[rank ${rank}] sum 3 true of 3, local ${rank}/3, host 0/1`);
    }
    expect(stdout).toContain('done, restart 0');
    expect(status, stderr).toBe(0);
  });

  it('a rank that fails ends the others, with its error', async () => {
    const { status, stderr } = await launch('throw', '1');
    expect(stderr).toMatch(/deepspeed: rank 1 \(pid \d+\) failed with exit code 1/);
    expect(stderr).toContain('Error: the cause of it all');
    expect(status).toBe(1);
  });

  it('starts a script by itself, without the launcher', async () => {
    const words = ['--ntasks=2', '--mpi=pmix', process.execPath, '--import', tsx, script, 'ok'];
    const output = await mustRun('srun', words, { cwd: root, env: env() });
    for (const place of ['0/2', '1/2']) expect(output).toContain(`sum 1 true of 2, local ${place}`);
    expect(output).toContain('done, restart 0');
  });
});

describe.skipIf(noMpi !== null || noSlurm !== null)('check by srun', { timeout: 120_000 }, () => {
  const slurm = new Slurm(2);
  beforeAll(() => slurm.start());
  afterAll(() => slurm.dispose());

  it('reaches the nodes, and measures between them', async () => {
    const hostfile = join(temporaryFolder(), 'hosts');
    writeFileSync(hostfile, slurm.nodes.map((node) => `${node} slots=1\n`).join(''));
    const program = join(root, 'dist', 'cli', 'deepspeed.js');
    const words = [program, 'check', '--json', '--hostfile', hostfile, '--launcher', 'slurm'];
    const output = await mustRun(process.execPath, words, { cwd: root, env: slurm.environment });
    const report = JSON.parse(output.split('\n')[0]!) as CheckReport;
    expect(report).toMatchObject({ healthy: true, lost: [], swept: [0, 1] });
    expect(report.names).toEqual(slurm.nodes);
    expect(report.sweep.readings.length).toBeGreaterThan(2);
  });
});

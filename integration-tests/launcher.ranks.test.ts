import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Sight } from './fixtures/launcher/describe-rank.ts';
import { fixture, runLauncher } from './launcher.run.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'launcher-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

type RankSight = Sight & { children: Record<'fork' | 'worker' | 'spawn', Sight> };
const sightOf = (rank: number): RankSight =>
  JSON.parse(readFileSync(join(folder, `rank_${rank}.json`), 'utf8'));

describe('a rank', () => {
  it('finds its place in the environment, and the run outside of it', async () => {
    const config = join(folder, 'ds_config.json');
    writeFileSync(config, '{ "train_batch_size": 4 }');
    const words = ['--num_procs', '2', fixture('describe-rank.ts'), folder, '--deepspeed', config];
    expect(await runLauncher(words)).toMatchObject({ status: 0, stdout: '', stderr: '' });

    const ports = new Set<string | undefined>();
    for (const rank of [0, 1]) {
      const sight = sightOf(rank);
      ports.add(sight.variables.MASTER_PORT);
      expect(sight.variables).toMatchObject({
        RANK: String(rank),
        LOCAL_RANK: String(rank),
        WORLD_SIZE: '2',
        LOCAL_SIZE: '2',
        MASTER_ADDR: '127.0.0.1',
      });
      expect(sight.run).toMatchObject({
        rank,
        worldSize: 2,
        deepspeedConfig: config,
        cores: null,
        memory: { arenaFds: [expect.any(Number), expect.any(Number)] },
      });
      expect(sight.run!.threads).toBeGreaterThanOrEqual(1);
      // The control page and one arena per rank, each once.
      expect(sight.memory).toBe(3);
      expect(sight.privateVariables).toEqual([]);
      // `--deepspeed FILE` after the script was the launcher's.
      expect(sight.arguments[0]).toBe(folder);
      expect(sight.arguments).toHaveLength(2);
    }
    expect(ports.size).toBe(1);
    expect(Number([...ports][0])).toBeGreaterThan(0);
  });

  it('has children that are none', async () => {
    const words = ['--num_procs', '2', fixture('describe-rank.ts'), folder];
    expect(await runLauncher(words)).toMatchObject({ status: 0, stderr: '' });
    for (const rank of [0, 1]) {
      const { fork, worker, spawn } = sightOf(rank).children;
      for (const child of [fork, worker, spawn])
        expect(child).toMatchObject({ run: null, privateVariables: [] });
      // A worker shares the descriptors of its process; other processes get none of them.
      expect([fork.memory, spawn.memory]).toEqual([0, 0]);
    }
  });

  it('gets what follows -- untouched', async () => {
    const words = [
      '--num_procs',
      '1',
      fixture('describe-rank.ts'),
      folder,
      '--',
      '--deepspeed',
      'x',
    ];
    expect(await runLauncher(words)).toMatchObject({ status: 0 });
    expect(sightOf(0).arguments.slice(0, 3)).toEqual([folder, '--deepspeed', 'x']);
    expect(sightOf(0).run!.deepspeedConfig).toBeNull();
  });

  it('runs on cores of its own when asked to', async () => {
    const script = join(folder, 'affinity.cjs');
    writeFileSync(
      script,
      `const { readFileSync, writeFileSync } = require('node:fs');
       const allowed = /Cpus_allowed_list:\\s*(.*)/.exec(readFileSync('/proc/self/status', 'utf8'))[1];
       writeFileSync(process.argv[2] + '/cores_' + process.env.RANK, allowed);`,
    );
    const status = readFileSync('/proc/self/status', 'utf8');
    const first = /Cpus_allowed_list:\s*(\d+)/.exec(status)![1]!;
    const words = ['--num_procs', '1', '--bind_cores_to_rank', '--bind_core_list', first, script];
    expect(await runLauncher([...words, folder])).toMatchObject({ status: 0, stderr: '' });
    expect(readFileSync(join(folder, 'cores_0'), 'utf8')).toBe(first);
  });

  it('runs a package with --module, found from the working directory', async () => {
    const entry = join(folder, 'node_modules', 'my-training', 'run.mjs');
    mkdirSync(join(entry, '..'), { recursive: true });
    writeFileSync(entry, "process.stdout.write('the package ran on ' + process.env.WORLD_SIZE);");
    writeFileSync(
      join(entry, '..', 'package.json'),
      JSON.stringify({ name: 'my-training', exports: { './run': { import: './run.mjs' } } }),
    );
    const run = (name: string) =>
      runLauncher(['--num_procs', '1', '--module', name], { cwd: folder });
    expect(await run('my-training/run')).toMatchObject({
      status: 0,
      stdout: 'the package ran on 1',
    });
    const missing = await run('not-there');
    expect(missing.status).toBe(1);
    expect(missing.stderr).toContain("Cannot find package 'not-there'");
  });

  it('runs CommonJS as the main module, under a path with spaces and a link', async () => {
    const real = join(folder, 'a folder');
    mkdirSync(real);
    writeFileSync(join(real, 'main.cjs'), 'process.stdout.write(String(require.main === module))');
    symlinkSync(real, join(folder, 'link'));
    const words = ['--num_procs', '1', join(folder, 'link', 'main.cjs')];
    expect(await runLauncher(words)).toMatchObject({ status: 0, stdout: 'true' });
  });
});

it('refuses before any rank starts what cannot work', async () => {
  const bad = join(folder, 'bad.json');
  writeFileSync(bad, '{ "train_batch_size": 4, "train_batch_size": 8 }');
  const script = fixture('speak.mjs');
  const cases: [words: string[], status: number, says: string][] = [
    [['--num_proc', '2', script], 2, 'Did you mean --num_procs?'],
    [[join(folder, 'missing.ts')], 1, 'SCRIPT_NOT_FOUND'],
    [[bad], 1, 'SCRIPT_NOT_RUNNABLE'],
    [['--deepspeed', join(folder, 'missing.json'), script], 1, 'CONFIG_NOT_FOUND'],
    [['--deepspeed', bad, script], 1, 'train_batch_size'],
    [['--hostfile', 'hosts', script], 1, 'HOSTFILE_INVALID'],
    [['--enable_each_rank_log', bad, script], 1, 'RANK_LOG_NOT_WRITABLE'],
    [['--num_procs', '1', '--bind_cores_to_rank', '--bind_core_list', '9999', script], 2, '9999'],
  ];
  for (const [words, status, says] of cases) {
    const finished = await runLauncher(words);
    expect(finished, says).toMatchObject({ status, stdout: '' });
    expect(finished.stderr).toContain(says);
  }
});

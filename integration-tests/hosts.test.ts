/** Runs over several machines, which are network namespaces: start, numbers, faults, restarts. */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fixture, startLauncher, until } from './launcher.run.ts';
import { mpiEnvironment, noMpi } from './mpi.ts';
import { Machines, noNamespaces } from './namespaces.ts';
import { mustRun } from './run-command.ts';

const script = fixture('on-hosts.ts');
const root = fileURLToPath(new URL('..', import.meta.url));
const tsx = join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs');

describe.skipIf(noMpi !== null || noNamespaces !== null)(
  'several machines',
  { timeout: 120_000 },
  () => {
    let machines: Machines;
    beforeEach(() => {
      machines = new Machines(2);
      writeFileSync(join(machines.folder, 'environment'), 'GREETING=good morning\n');
    });
    afterEach(() => machines?.dispose());

    const env = () => ({
      ...machines.environment,
      DS_ENV_FILE: join(machines.folder, 'environment'),
    });
    const launch = (hostfile: string, ...words: string[]) =>
      startLauncher(['--hostfile', hostfile, ...words], { env: env() });

    it('train together: two ranks on the first, one on the second, and .deepspeed_env on all', async () => {
      const { status, stdout, stderr } = await launch(machines.hostfile(2, 1), script, 'ok')
        .finished;
      expect(stderr).toContain('[rank 1] sum 3 true of 3, local 1/2, host 0/2, 1 good morning');
      expect(stderr).toContain('[rank 2] sum 3 true of 3, local 0/1, host 1/2, 0 good morning');
      expect(stdout).toContain('sum 3 true of 3, local 0/2, host 0/2, 0 good morning');
      expect(stdout).toContain('done, restart 0');
      expect(status).toBe(0);
    });

    it('end with their ranks, though mpirun hangs', async () => {
      const folder = join(machines.folder, 'hanging');
      mkdirSync(folder);
      const real = (await mustRun('sh', ['-c', 'command -v mpirun'], { cwd: root })).trim();
      const program = `#!/bin/sh\n${real} "$@"\ncase "$1" in --version) ;; *) exec sleep 1000 ;; esac\n`;
      writeFileSync(join(folder, 'mpirun'), program, { mode: 0o755 });
      const { status, stdout, stderr } = await startLauncher(
        ['--hostfile', machines.hostfile(1, 1), '--grace_period', '0', script, 'ok'],
        { env: { ...env(), PATH: `${folder}:${process.env.PATH}` } },
      ).finished;
      expect(stdout).toContain('done, restart 0');
      expect(stderr).toContain('all ranks have ended and mpirun has not: it is killed');
      expect(status).toBe(0);
    });

    it('end with the error of the rank that failed, told once', async () => {
      const words = [script, 'throw', '1'];
      const { status, stderr } = await launch(machines.hostfile(1, 1), ...words).finished;
      expect(stderr).toMatch(/deepspeed: rank 1 \(pid \d+\) failed with exit code 1/);
      expect(stderr).toContain('Error: the cause of it all');
      expect(stderr).not.toContain('COMM_ABORTED');
      expect(status).toBe(1);
    });

    it.each([
      ['on another machine', [1, 1]],
      ['on the same machine', [1, 2]],
    ])('end when one ends as if all were well, in their midst, %s', async (_, slots) => {
      const hostfile = machines.hostfile(...slots);
      const last = slots.reduce((sum, count) => sum + count, 0) - 1;
      const { status, stderr } = await launch(hostfile, script, 'exit', String(last)).finished;
      expect(stderr).toContain(`rank ${last} has left (rank ${last} called process.exit(0)\n`);
      expect(stderr).toMatch(/^\[rank \d\] +at .*on-hosts\.ts/m);
      expect(status).not.toBe(0);
    });

    it('end when one ends as if all were well before it has met the others', async () => {
      const { status, stderr } = await launch(machines.hostfile(1, 1), script, 'absent', '1')
        .finished;
      expect(stderr).toMatch(
        /rank 1 has left \(rank 1 called process\.exit\(0\) at .*on-hosts\.ts:\d+:\d+\)+ before all ranks had met/,
      );
      expect(status).not.toBe(0);
    });

    it('name a rank that was killed, and go on after a restart', async () => {
      const words = ['--max_restarts', '1', '--exclude', `${machines.addresses[0]}:1`];
      const { status, stdout, stderr } = await launch(
        machines.hostfile(2, 1),
        ...words,
        script,
        'kill',
        '1',
      ).finished;
      expect(stderr).toContain(`host ${machines.addresses[1]} (rank 1) has died`);
      expect(stderr).toContain(`deepspeed: restart 1 of 1 without ${machines.addresses[1]}`);
      expect(stdout).toContain('done, restart 1');
      expect(status).toBe(0);
    });

    it('say both what they have when they differ', async () => {
      const { status, stderr } = await launch(machines.hostfile(1, 1), script, 'differ').finished;
      expect(stderr).toMatch(
        /the hosts differ: \S+-0 \(rank 0\) has the config of rank 0; \S+-1 \(rank 1\) has the config of rank 1/,
      );
      expect(stderr).toContain('ranks 0-1 failed');
      expect(status).toBe(1);
    });

    it('say which config is whose, when their files differ', async () => {
      const config = join(machines.folder, 'config.json');
      writeFileSync(config, JSON.stringify({ gradient_clipping: 1 }));
      machines.replaceFile(1, config, JSON.stringify({ gradient_clipping: 2 }));
      const words = ['--deepspeed', config, script, 'ok'];
      const { status, stderr } = await launch(machines.hostfile(1, 1), ...words).finished;
      expect(stderr).toMatch(
        /the hosts differ: \S+-0 \(rank 0\) has deepspeed-js \S+, Node \d+, \S+config.json \(SHA-256 (\w+)\); \S+-1 \(rank 1\) has deepspeed-js \S+, Node \d+, \S+config.json \(SHA-256 (?!\1)\w+\)/,
      );
      expect(status).toBe(1);
    });

    it('name a rank that has another version, and the version that it should have', async () => {
      const path = join(root, 'package.json');
      const older = readFileSync(path, 'utf8').replace(/"version": "[^"]+"/, '"version": "0.0.9"');
      machines.replaceFile(1, path, older);
      const { status, stderr } = await launch(machines.hostfile(1, 1), script, 'ok').finished;
      const { version } = JSON.parse(readFileSync(path, 'utf8')) as { version: string };
      expect(stderr).toMatch(
        new RegExp(
          `rank 1 on ${machines.addresses[1]} \\(process \\d+\\) has deepspeed-js 0.0.9, the launcher is deepspeed-js ${version}`,
        ),
      );
      expect(status).toBe(1);
    });

    it('name both processes of a rank that is started twice', async () => {
      const run = launch(machines.hostfile(1, 1), script, 'wait');
      let seen = '';
      run.child.stdout!.on('data', (text: string) => {
        seen += text;
      });
      await until(() => seen.includes('waiting'));
      const [first] = machines.ranks(1);
      const [program, ...words] = [...machines.inside(1), ...machines.commandOf(first!)];
      const second = spawn(program!, words, {
        env: machines.environmentOf(first!),
        stdio: 'ignore',
      });
      const { status, stderr } = await run.finished;
      expect(stderr).toMatch(
        new RegExp(`rank 1 was started twice: as process ${first} on \\S+ and as process \\d+ on`),
      );
      expect(status).toBe(1);
      await until(() => second.exitCode !== null || second.signalCode !== null);
      expect(second.exitCode).not.toBe(0);
    });

    it('train together when mpirun starts the script itself', async () => {
      const hosts = `${machines.addresses[0]}:2,${machines.addresses[1]}:1`;
      const words = ['--host', hosts, '-n', '3', process.execPath, '--import', tsx, script, 'ok'];
      const output = await mustRun('mpirun', words, { cwd: root, env: env() });
      for (const place of ['0/2', '1/2', '0/1'])
        expect(output).toContain(`sum 3 true of 3, local ${place}`);
      expect(output).toContain('done, restart 0');
    });

    it('are one, joined by MPI all the same, where comm_backend of the config says so', async () => {
      const config = join(machines.folder, 'mpi.json');
      writeFileSync(config, JSON.stringify({ comm_backend: 'mpi' }));
      const words = ['--num_procs', '2', '--deepspeed', config, script, 'ok'];
      const { status, stdout, stderr } = await startLauncher(words, {
        env: { ...env(), ...mpiEnvironment },
      }).finished;
      expect(stderr).toContain('[rank 1] sum 1 true of 2, local 1/2, host 0/1');
      expect(stdout).toContain('done, restart 0');
      expect(status).toBe(0);
    });

    it('name a machine that is cut off; its ranks end, too', async () => {
      const run = launch(machines.hostfile(1, 1), '--link_timeout', '8', script, 'wait');
      let seen = '';
      run.child.stdout!.on('data', (text: string) => {
        seen += text;
      });
      await until(() => seen.includes('waiting'));
      expect(machines.commands(1)).toContain('node');
      machines.cut(1);
      const { status, stderr } = await run.finished;
      expect(stderr).toContain(
        `host ${machines.addresses[1]} (rank 1) is cut off: nothing was heard for 8 s`,
      );
      expect(status).toBe(1);
      await until(() => !machines.commands(1).includes('node'));
    });
  },
);

/**
 * `deepspeed-js check` on machines that are network namespaces, of which one is slow, stands still, is cut off or has a
 * bad cable; and on ranks of this machine. Cables are slow, so that they and not the processors decide.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CheckReport } from '../src/launcher/index.ts';
import { until } from './launcher.run.ts';
import { noMpi } from './mpi.ts';
import { Machines, noNamespaces } from './namespaces.ts';
import { runCommand } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
// The built one: seven machines start the agent, and none waits for a compiler.
const program = join(root, 'dist', 'cli', 'deepspeed.js');
const rate = '40mbit';
const slowRate = '4mbit';

async function check(words: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { status, output } = await runCommand(
    process.execPath,
    [program, 'check', '--json', ...words],
    {
      cwd: root,
      env,
    },
  );
  return { status, report: JSON.parse(output.split('\n')[0]!) as CheckReport };
}

describe.skipIf(noNamespaces !== null).each([4, 7])(
  'a group of %i machines',
  { timeout: 120_000 },
  (count) => {
    let machines: Machines;
    beforeAll(() => {
      machines = new Machines(count);
      for (let index = 0; index < count; index++) machines.shape(index, rate);
    });
    afterAll(() => machines?.dispose());
    const hostfile = () => machines.hostfile(...Array<number>(count).fill(1));
    const run = (...words: string[]) =>
      check(['--hostfile', hostfile(), ...words], machines.environment);
    const blamed = ({ members, links }: CheckReport) => ({
      members: members.map(({ member }) => member),
      links: links.map(({ a, b }) => [a, b]),
    });

    it('is healthy when every machine and link is', async () => {
      const { status, report } = await run();
      expect(report).toMatchObject({ healthy: true, lost: [], members: [], links: [] });
      expect(report.pairs).toHaveLength((count * (count - 1)) / 2);
      expect(report.sweep.readings.length).toBeGreaterThan(2);
      expect(status).toBe(0);
    });

    it.runIf(count === 4 && noMpi === null)(
      'carries the all-reduce of a run as well, of all slots and by MPI',
      async () => {
        const { status, report } = await check(
          [
            '--hostfile',
            machines.hostfile(2, 1, 1, 1),
            '--num_nodes',
            '3',
            '--mpi',
            '--probe_timeout',
            '60',
          ],
          machines.environment,
        );
        expect(report).toMatchObject({ lost: [], swept: [0, 1, 2], sweep: { error: null } });
        const { sweep, reached, isSlow } = report.run!;
        expect(sweep.error).toBeNull();
        // 2/3 of the vector have to leave each machine twice: no all-reduce passes the cables' 40 Mbit/s by much. How
        // far below it four ranks stay on the cores of one machine is not for a test to say, nor the verdict of it.
        expect(reached).toBeGreaterThan(0);
        expect(reached).toBeLessThan((1.3 * 40e6) / 8);
        expect(report.healthy).toBe(
          !isSlow && blamed(report).members.length + blamed(report).links.length === 0,
        );
        expect(status).toBe(report.healthy ? 0 : 1);
      },
    );

    it.runIf(count === 7)('has a slow machine, of which all links are slow', async () => {
      machines.shape(1, slowRate);
      const out = join(machines.folder, 'pairs.png');
      const { status, report } = await run('--out', out);
      machines.shape(1, rate);
      expect(blamed(report)).toEqual({ members: [1], links: [] });
      expect(report.members[0]!.slow).toHaveLength(count - 1);
      expect(readFileSync(out).subarray(1, 4).toString()).toBe('PNG');
      expect(status).toBe(1);
    });

    it('has one slow link, which halves of the group find when the bandwidth is given', async () => {
      machines.shapeLink(0, count - 2, '1600kbit');
      const { status, report } = await run('--expect', '0.032');
      machines.unshapeLink(0, count - 2);
      expect(blamed(report)).toEqual({ members: [], links: [[0, count - 2]] });
      expect(report.links[0]!.beside.length).toBeGreaterThan(0);
      expect(status).toBe(1);
    });

    /** Returns when all agents have come. */
    const begin = async (...words: string[]) => {
      const child = spawn(
        process.execPath,
        [program, 'check', '--hostfile', hostfile(), '--all_pairs', ...words],
        { cwd: root, env: { ...process.env, ...machines.environment } },
      );
      let [printed, said] = ['', ''];
      child.stdout.on('data', (text) => {
        printed += text;
      });
      child.stderr.on('data', (text) => {
        said += text;
      });
      const ended = new Promise((resolve) => child.on('close', resolve));
      await until(() => said.includes('pairs of'));
      return { child, ended, printed: () => printed };
    };

    it.runIf(count === 4).each([
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const)('ends at %s, and its agents with it', async (signal, status) => {
      const { child, ended, printed } = await begin();
      expect(machines.commands(1)).toContain('node');
      child.kill(signal);
      expect(await ended).toBe(status);
      expect(printed()).toBe('');
      const left = () => machines.addresses.flatMap((_, index) => machines.processes(index));
      await until(() => left().length === 0);
    });

    it('has a machine that stands still; the others are measured without it', async () => {
      const begun = await begin('--link_timeout', '8');
      machines.stop(2);
      expect(await begun.ended).toBe(1);
      const printed = begun.printed();
      expect(printed).toMatch(
        /^\S+ stands still: its agent \(process \d+\) has been silent for 8 s, and its machine answers\n/,
      );
      expect(printed).toContain(`${machines.addresses[2]} stands still`);
      expect(printed).toContain(`all-reduce over ${count - 1}:`);
      expect(printed).not.toContain(`${machines.addresses[2]} is slow`);
    });
  },
);

describe.skipIf(noNamespaces !== null)('machines that are not there', { timeout: 60_000 }, () => {
  let machines: Machines;
  beforeAll(() => {
    machines = new Machines(3);
    // In the place of ssh: $1 is the machine that it does not reach, $2 what reaches the others.
    const script = `#!/bin/sh
unreachable=$1; agent=$2; shift 2
[ "$1" = "$unreachable" ] && echo "connect to host $1: No route to host" >&2 && exit 255
exec "$agent" "$@"
`;
    writeFileSync(`${machines.agent}-but`, script, { mode: 0o755 });
  });
  afterAll(() => machines?.dispose());

  it('are told from the way to them: no login, and no network behind it', async () => {
    machines.cut(1);
    const { status, report } = await check(
      ['--hostfile', machines.hostfile(1, 1, 1), '--probe_timeout', '3'],
      {
        ...machines.environment,
        // The third cannot be logged in to.
        OMPI_MCA_plm_rsh_agent: `${machines.agent}-but ${machines.addresses[2]} ${machines.agent}`,
      },
    );
    expect(report.lost).toMatchObject([{ member: 2, kind: 'unreachable' }]);
    expect(report.lost[0]!.evidence).toContain('No route to host');
    expect(report.links).toMatchObject([{ a: 0, b: 1, bandwidth: 0 }]);
    expect(report.links[0]!.error).toMatch(/connect/);
    expect(status).toBe(1);
  });
});

it('checks ranks of this machine, through shared memory', async () => {
  const { status, report } = await check(['--num_procs', '2']);
  expect(report).toMatchObject({ healthy: true, swept: [0, 1], expectedFrom: 'pairs' });
  expect(report.pairs).toHaveLength(1);
  expect(report.sweep.readings.at(-1)!.bytes).toBe(16 << 20);
  expect(status).toBe(0);
}, 60_000);

it('leaves no rank behind when it is killed', async () => {
  const child = spawn(process.execPath, [program, 'check', '--num_procs', '2'], { cwd: root });
  const probes = () =>
    childrenOf(child.pid!).flatMap((launcher) => [launcher, ...childrenOf(launcher)]);
  let begun: number[] = [];
  await until(() => {
    begun = probes();
    return begun.length === 3;
  });
  child.kill('SIGKILL');
  await until(() => !begun.some((pid) => existsSync(`/proc/${pid}`)));
}, 60_000);

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return text.split(' ').filter(Boolean).map(Number);
  } catch {
    return []; // gone meanwhile
  }
}

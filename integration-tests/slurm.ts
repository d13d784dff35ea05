/**
 * A Slurm on this machine for tests: its own munged, slurmctld and a slurmd for each node, with ports and files of
 * their own.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

function whyNoSlurm(): string | null {
  if (process.getuid?.() !== 0) return 'its daemons want to be started by root';
  const missing = ['munged', 'slurmctld', 'slurmd', 'srun'].filter(
    (tool) => spawnSync(tool, ['--version']).error !== undefined,
  );
  return missing.length === 0 ? null : `${missing.join(', ')} not installed`;
}

/** Why tests with Slurm cannot run here, or null. */
export const noSlurm: string | null = whyNoSlurm();
if (noSlurm !== null) console.log(`tests with Slurm are skipped: ${noSlurm}`);

export class Slurm {
  /** Their names, as a hostfile gives them: all of them this machine. */
  readonly nodes: readonly string[];
  readonly #folder = mkdtempSync(join(tmpdir(), 'dsjs-slurm-'));
  readonly #daemons: ChildProcess[] = [];

  constructor(nodes = 1) {
    this.nodes = [hostname().split('.')[0]!, 'localhost'].slice(0, nodes);
  }

  /** Resolves when the nodes take jobs. */
  async start(): Promise<void> {
    // munged trusts no folder that others may write.
    chmodSync(this.#folder, 0o755);
    for (const name of ['state', ...this.nodes]) mkdirSync(join(this.#folder, name));
    writeFileSync(join(this.#folder, 'munge.key'), randomBytes(128), { mode: 0o600 });
    writeFileSync(join(this.#folder, 'slurm.conf'), await this.#configuration());
    const munge = ['key-file', 'socket', 'pid-file', 'log-file', 'seed-file'].map(
      (flag) =>
        `--${flag}=${join(this.#folder, flag === 'key-file' ? 'munge.key' : `munge.${flag}`)}`,
    );
    this.#run('munged', ['--foreground', '--force', ...munge]);
    await this.#until(() => existsSync(join(this.#folder, 'munge.socket')));
    this.#run('slurmctld', ['-D']);
    for (const node of this.nodes) this.#run('slurmd', ['-D', '-N', node]);
    await this.#until(() => {
      const words = ['--noheader', '--Node', '--format=%T'];
      const { stdout } = spawnSync('sinfo', words, { env: this.environment, encoding: 'utf8' });
      return stdout.trim() === this.nodes.map(() => 'idle').join('\n');
    });
  }

  /** For srun, and a launcher that calls it. */
  get environment(): NodeJS.ProcessEnv {
    return { ...process.env, SLURM_CONF: join(this.#folder, 'slurm.conf') };
  }

  async dispose(): Promise<void> {
    for (const daemon of this.#daemons.toReversed()) {
      if (daemon.exitCode !== null || daemon.signalCode !== null) continue;
      daemon.kill('SIGTERM');
      await once(daemon, 'exit');
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #run(program: string, words: string[]): void {
    this.#daemons.push(spawn(program, words, { env: this.environment, stdio: 'ignore' }));
  }

  /** The test's own time limit is the only one, but for a daemon that has ended. */
  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      const gone = this.#daemons.find(({ exitCode }) => exitCode !== null);
      if (gone) {
        const logs = ['munge.log-file', 'slurmctld.log', ...this.nodes.map(slurmdLog)].map((name) =>
          this.#logOf(name),
        );
        throw new Error(`${gone.spawnfile} has ended:\n${logs.join('\n')}`);
      }
      await sleep(50);
    }
  }

  #logOf(name: string): string {
    try {
      return readFileSync(join(this.#folder, name), 'utf8');
    } catch {
      return '';
    }
  }

  async #configuration(): Promise<string> {
    const file = (name: string) => join(this.#folder, name);
    const entries = {
      ClusterName: 'test',
      SlurmctldHost: `${this.nodes[0]}(127.0.0.1)`,
      SlurmUser: 'root',
      SlurmctldPort: await freePort(),
      AuthType: 'auth/munge',
      AuthInfo: `socket=${file('munge.socket')}`,
      StateSaveLocation: file('state'),
      SlurmdSpoolDir: file('%n'),
      SlurmctldPidFile: file('slurmctld.pid'),
      SlurmdPidFile: file('slurmd.%n.pid'),
      SlurmctldLogFile: file('slurmctld.log'),
      SlurmdLogFile: file(slurmdLog('%n')),
      ProctrackType: 'proctrack/linuxproc',
      TaskPlugin: 'task/none',
      // More ranks than this machine may have cores.
      SlurmdParameters: 'config_overrides',
      ReturnToService: 2,
    };
    const place = `NodeHostname=${hostname()} NodeAddr=127.0.0.1`;
    const nodes = this.nodes.map(
      async (node) => `NodeName=${node} ${place} Port=${await freePort()} CPUs=4 State=UNKNOWN`,
    );
    return [
      ...Object.entries(entries).map(([key, value]) => `${key}=${value}`),
      ...(await Promise.all(nodes)),
      `PartitionName=all Nodes=${this.nodes.join(',')} Default=YES State=UP`,
      '',
    ].join('\n');
  }
}

function slurmdLog(node: string): string {
  return `slurmd.${node}.log`;
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/**
 * Machines for tests: network namespaces with addresses and host names of their own, joined by a bridge. A small
 * agent in the place of ssh starts commands in them.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

function whyNoNamespaces(): string | null {
  if (process.platform !== 'linux') return 'network namespaces are Linux only';
  const name = `dsjs-probe-${process.pid}`;
  const made = spawnSync('ip', ['netns', 'add', name], { encoding: 'utf8' });
  if (made.status !== 0)
    return `network namespaces cannot be made: ${made.error?.message ?? made.stderr.trim()}`;
  spawnSync('ip', ['netns', 'delete', name]);
  return spawnSync('unshare', ['--uts', 'true']).status === 0
    ? null
    : 'unshare --uts is not allowed';
}

/** Why tests with machines of this kind cannot run here, or null. */
export const noNamespaces: string | null = whyNoNamespaces();
if (noNamespaces !== null) console.log(`tests of several machines are skipped: ${noNamespaces}`);

/** What a signal or the end of the process has to take away. */
const inUse = new Set<Machines>();
const endingSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

function disposeAll(): void {
  for (const machines of inUse) machines.dispose();
}

/** Names of namespaces and folders begin with this, and the number of the process that made them. */
const tagOf = (pid: number, count: number) => `dsjs${pid.toString(16)}z${count % 100}`;
let made = 0;

/** Takes away what processes have left that were killed. */
function sweep(): void {
  const isOfTheDead = (name: string) => {
    const pid = Number.parseInt(/^dsjs([0-9a-f]+)z\d+/.exec(name)?.[1] ?? '', 16);
    // Nothing of this process is in use yet.
    return pid > 0 && (pid === process.pid || !existsSync(`/proc/${pid}`));
  };
  const { stdout } = spawnSync('ip', ['netns', 'list'], { encoding: 'utf8' });
  const names = stdout.split('\n').map((line) => line.split(' ')[0]!);
  for (const name of names.filter(isOfTheDead)) {
    const { stdout } = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' });
    for (const pid of stdout.split('\n').filter(Boolean)) spawnSync('kill', ['-KILL', pid]);
    spawnSync('ip', ['link', 'delete', name]);
    spawnSync('ip', ['netns', 'delete', name]);
    spawnSync('ip', ['link', 'delete', name.replace(/-\d+$/, '')]);
  }
  for (const name of readdirSync(tmpdir()).filter(isOfTheDead))
    rmSync(join(tmpdir(), name), { recursive: true, force: true });
}

/** A terminal's Ctrl-C comes twice, from npm as well: the second one must not end this half-way. */
function endBySignal(signal: NodeJS.Signals): void {
  disposeAll();
  for (const one of endingSignals) process.off(one, endBySignal);
  process.kill(process.pid, signal);
}

export class Machines {
  /** Their addresses, which are their names in a hostfile. */
  readonly addresses: string[] = [];
  /** A folder that holds the agent, and may hold what a test needs. */
  readonly folder: string;
  readonly #tag = tagOf(process.pid, made++);
  readonly #names: string[] = [];

  constructor(count: number) {
    if (inUse.size === 0) {
      sweep();
      process.on('exit', disposeAll);
      for (const signal of endingSignals) process.on(signal, endBySignal);
    }
    inUse.add(this);
    this.folder = join(tmpdir(), this.#tag);
    mkdirSync(this.folder);
    const subnet = `10.${randomInt(64, 128)}.${randomInt(256)}`;
    ip('link', 'add', this.#tag, 'type', 'bridge');
    ip('address', 'add', `${subnet}.1/24`, 'dev', this.#tag);
    ip('link', 'set', this.#tag, 'up');
    for (let index = 0; index < count; index++) {
      const name = `${this.#tag}-${index}`;
      const address = `${subnet}.${index + 2}`;
      ip('netns', 'add', name);
      this.#names.push(name);
      this.addresses.push(address);
      ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
      ip('link', 'set', name, 'master', this.#tag, 'up');
      ip('-n', name, 'address', 'add', `${address}/24`, 'dev', 'eth0');
      ip('-n', name, 'link', 'set', 'eth0', 'up');
      ip('-n', name, 'link', 'set', 'lo', 'up');
    }
    // $1: the address; the rest: what ssh would hand to a shell there.
    const agent = `#!/bin/sh
name=${this.#tag}-$(( \${1##*.} - 2 ))
shift
files=${this.folder}/files-$name
exec ip netns exec "$name" unshare --uts sh -c 'hostname "$0" && if [ -f "$1" ]; then . "$1"; fi && shift && exec sh -c "$*"' "$name" "$files" "$@"
`;
    writeFileSync(this.agent, agent);
    chmodSync(this.agent, 0o755);
  }

  get agent(): string {
    return join(this.folder, 'agent');
  }

  /** For a launcher: to start ranks through the agent, over the bridge. */
  get environment(): NodeJS.ProcessEnv {
    return {
      OMPI_MCA_plm_rsh_agent: this.agent,
      OMPI_MCA_btl: 'tcp,self',
      OMPI_ALLOW_RUN_AS_ROOT: '1',
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
    };
  }

  /** A hostfile with so many slots each. */
  hostfile(...slots: number[]): string {
    const path = join(this.folder, `hosts-${slots.join('-')}`);
    writeFileSync(
      path,
      slots.map((count, index) => `${this.addresses[index]} slots=${count}\n`).join(''),
    );
    return path;
  }

  /** On that machine, processes that are yet to come find another file in the place of this one. */
  replaceFile(index: number, path: string, content: string): void {
    const name = this.#names[index]!;
    const other = join(this.folder, `${name}-${basename(path)}`);
    writeFileSync(other, content);
    // The file list of a namespace's commands is theirs alone: nobody else sees what is mounted there.
    appendFileSync(join(this.folder, `files-${name}`), `mount --bind '${other}' '${path}'\n`);
  }

  /** Pulls the machine's cable. */
  cut(index: number): void {
    ip('link', 'set', this.#names[index]!, 'down');
  }

  /**
   * Lets so much through, as tc writes it: 100mbit. In both directions. Of a burst less than the 64 KiB and headers that TCP
   * sends at once each packet is shaped for itself, which takes processor time from ranks where the link is fast.
   */
  shape(index: number, rate: string, burst = '64kb'): void {
    tc(null, this.#names[index]!, rate, burst);
    tc(this.#names[index]!, 'eth0', rate, burst);
  }

  /** Joins two machines by a cable of their own, which lets so much through; what goes to others is not touched. */
  shapeLink(a: number, b: number, rate: string): void {
    const device = `to-${Math.min(a, b)}-${Math.max(a, b)}`;
    const name = (index: number) => this.#names[index]!;
    ip('link', 'add', device, 'netns', name(a), 'type', 'veth', 'peer', device, 'netns', name(b));
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      ip('-n', name(from), 'link', 'set', device, 'up');
      const route = [`${this.addresses[to]}/32`, 'dev', device, 'src', this.addresses[from]!];
      ip('-n', name(from), 'route', 'add', ...route);
      tc(name(from), device, rate);
    }
  }

  /** Takes that cable away. */
  unshapeLink(a: number, b: number): void {
    const device = `to-${Math.min(a, b)}-${Math.max(a, b)}`;
    ip('-n', this.#names[a]!, 'link', 'delete', device);
  }

  /** Stops all of its processes, as a machine that stands still. */
  stop(index: number): void {
    for (const pid of this.processes(index)) process.kill(pid, 'SIGSTOP');
  }

  /** What to put before a command that is to run on the machine. */
  inside(index: number): string[] {
    return ['ip', 'netns', 'exec', this.#names[index]!];
  }

  /** Bytes that the machine has sent so far. */
  sent(index: number): number {
    return Number(readFileSync(`/sys/class/net/${this.#names[index]}/statistics/rx_bytes`, 'utf8'));
  }

  /** Processes of the machine. */
  processes(index: number): number[] {
    const list = execFileSync('ip', ['netns', 'pids', this.#names[index]!], { encoding: 'utf8' });
    return list.split('\n').filter(Boolean).map(Number);
  }

  /** Those that are ranks. */
  ranks(index: number): number[] {
    return this.processes(index).filter((pid) => this.#textOf(pid, 'comm') === 'node');
  }

  /** The environment that a process was started with. */
  environmentOf(pid: number): NodeJS.ProcessEnv {
    const entries = this.#textOf(pid, 'environ')
      .split('\0')
      .map((entry) => entry.split(/=(.*)/s).slice(0, 2));
    return Object.fromEntries(entries) as NodeJS.ProcessEnv;
  }

  commandOf(pid: number): string[] {
    return this.#textOf(pid, 'cmdline').split('\0').slice(0, -1);
  }

  /** Empty for a process that is gone meanwhile. */
  #textOf(pid: number, file: 'comm' | 'environ' | 'cmdline'): string {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8').trim();
    } catch {
      return '';
    }
  }

  /** Their names. */
  commands(index: number): string[] {
    return this.processes(index).map((pid) => this.#textOf(pid, 'comm'));
  }

  /** Ends all of its processes at once, as a power cut does. */
  kill(index: number): void {
    for (const pid of this.processes(index)) process.kill(pid, 'SIGKILL');
  }

  dispose(): void {
    for (const index of this.#names.keys()) this.kill(index);
    for (const name of this.#names) {
      spawnSync('ip', ['link', 'delete', name]);
      spawnSync('ip', ['netns', 'delete', name]);
    }
    spawnSync('ip', ['link', 'delete', this.#tag]);
    rmSync(this.folder, { recursive: true, force: true });
    // What mpirun, killed there, has left in its sessions' folders.
    for (const name of this.#names)
      rmSync(join(tmpdir(), `ompi.${name}.${process.getuid!()}`), { recursive: true, force: true });
    inUse.delete(this);
    if (inUse.size > 0) return;
    process.off('exit', disposeAll);
    for (const signal of endingSignals) process.off(signal, endBySignal);
  }
}

function ip(...words: string[]): void {
  execFileSync('ip', words, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Shapes what a device of a namespace (null: our own) sends. */
function tc(namespace: string | null, device: string, rate: string, burst = '64kb'): void {
  const where = namespace === null ? [] : ['-n', namespace];
  const shaped = ['root', 'tbf', 'rate', rate, 'burst', burst, 'latency', '100ms'];
  execFileSync('tc', [...where, 'qdisc', 'replace', 'dev', device, ...shaped]);
}

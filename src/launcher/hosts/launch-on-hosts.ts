/** One run over several machines: ranks started by mpirun, mpiexec or srun, and watched through the hub. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeepSpeedError } from '../../errors.ts';
import { requireMpiModule } from '../../native/index.ts';
import { firstCause, hasFailed } from '../failure.ts';
import { LineSplitter, type Terminal } from '../output.ts';
import { packageVersion } from '../package-version.ts';
import { atMost } from '../patience.ts';
import type { RankLogs } from '../rank-log.ts';
import type { RankEnd } from '../rank-process.ts';
import type { RunOutcome, StopReason } from '../supervise.ts';
import {
  type CommandLine,
  commandLine,
  type LauncherKind,
  rankCount,
  unlabel,
} from './commands.ts';
import type { ChosenHost } from './filter.ts';
import { HOSTS_VARIABLE, type HostsRun } from './hosts-environment.ts';
import { type Fault, Hub } from './hub.ts';

/** The hosts of a run, and how to reach them. */
export interface HostsPlan {
  hosts: (ChosenHost & { room: number })[];
  kind: LauncherKind;
  /** The words of `--launcher_args`. */
  extra: string[];
  /** By which the other machines reach this one; null: found out. */
  masterAddress: string | null;
  linkTimeoutMs: number;
  /** For every rank, from this machine's environment and `.deepspeed_env`. */
  variables: Record<string, string>;
}

export interface HostsStart {
  plan: HostsPlan;
  /** `node`, its flags, the script, its arguments. */
  argv: string[];
  run: Omit<HostsRun, 'version' | 'hosts' | 'launcher' | 'linkTimeoutMs'>;
  gracePeriodMs: number;
  terminals: { stdout: Terminal; stderr: Terminal };
  logs: RankLogs[] | null;
  say: (text: string) => void;
}

export interface HostsOutcome extends RunOutcome {
  /** Machines of which every rank was lost: not to be used again. */
  lostHosts: string[];
}

/** From the first rank that comes to the last: the starter starts all of them at once. */
const LEAST_START_MS = 60_000;
/** After an abort, how long ranks may take to fail by themselves before they are ended. */
const ABORT_PATIENCE_MS = 2000;
/**
 * After the last rank's exit, how long its starter may take besides three grace periods: some releases of Open MPI now
 * and then wait for ever for what has ended long ago (openpmix/prrte issue 1839).
 */
const STARTER_PATIENCE_MS = 5000;
/** After its starter's exit, how long the streams of the ranks may stay open. */
const STREAM_PATIENCE_MS = 1000;
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Whether the programs are here that start ranks elsewhere.
 *
 * @throws DeepSpeedError LAUNCHER_TOOL_MISSING, MPI_NOT_BUILT
 */
export function requireTools({ kind, hosts, variables }: HostsPlan): void {
  const has = (program: string) => spawnSync(program, ['--version']).error === undefined;
  const program = { openmpi: 'mpirun', mpich: 'mpiexec', slurm: 'srun' }[kind];
  const packages = { openmpi: 'openmpi-bin', mpich: 'mpich', slurm: 'slurm-client' }[kind];
  if (!has(program))
    throw new DeepSpeedError(
      'LAUNCHER_TOOL_MISSING',
      `--launcher ${kind} needs ${program}, which is not installed`,
      { fix: `Run: apt-get install ${packages}`, data: { program } },
    );
  const remote = hosts.filter(({ name }) => !isThisMachine(name));
  const agent = variables.OMPI_MCA_plm_rsh_agent ?? process.env.OMPI_MCA_plm_rsh_agent;
  if (kind !== 'slurm' && remote.length > 0 && agent === undefined && !has('ssh'))
    throw new DeepSpeedError(
      'LAUNCHER_TOOL_MISSING',
      `${program} reaches ${remote[0]!.name} by ssh, which is not installed`,
      { fix: 'Run: apt-get install openssh-client', data: { program: 'ssh' } },
    );
  requireMpiModule();
}

export function isThisMachine(name: string): boolean {
  return ['localhost', '127.0.0.1', '::1', hostname()].includes(name);
}

/** Runs until no rank is left. */
export async function runOnHosts(start: HostsStart): Promise<HostsOutcome> {
  const { plan, gracePeriodMs, say } = start;
  const ranks = rankCount(plan.hosts);
  const failures: RankEnd[] = [];
  const ended = new Set<number>();
  const endedByStarter = new Set<number>();
  const lostHosts = new Set<string>();
  const timers: NodeJS.Timeout[] = [];
  let stopped: StopReason | null = null;
  let child: ChildProcess | null = null;

  // Asked to end, the starter ends its ranks; by force it goes together with what it runs here, which
  // may wait for a machine that cannot be reached.
  const kill = (signal: NodeJS.Signals): boolean => {
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null)
      return false;
    return process.kill(signal === 'SIGKILL' ? -child.pid : child.pid, signal);
  };
  const killAfter = (milliseconds: number, signal: NodeJS.Signals) => {
    timers.push(setTimeout(kill, milliseconds, signal));
  };
  let hasHung = false;
  const endStarter = () => {
    hasHung = kill('SIGKILL');
    if (hasHung) say(`all ranks have ended and ${child?.spawnfile} has not: it is killed`);
  };
  const abort = (reason: StopReason, rank: number, message: string) => {
    if (stopped !== null) return;
    stopped = reason;
    hub.abort(rank, message);
    killAfter(ABORT_PATIENCE_MS, 'SIGTERM');
    killAfter(ABORT_PATIENCE_MS + gracePeriodMs, 'SIGKILL');
  };
  const onFault = (fault: Fault) => {
    if (stopped !== null && fault.kind === 'died') {
      // The starter ended them, since it lost a machine or was told to: theirs are healthy.
      for (const rank of fault.ranks) endedByStarter.add(rank);
      return;
    }
    for (const host of fault.lostHosts) lostHosts.add(host);
    const reason: StopReason = { kind: 'fault', message: fault.message };
    abort(
      fault.kind === 'died' || fault.kind === 'cut off' ? { kind: 'failure' } : reason,
      fault.ranks[0] ?? -1,
      fault.message,
    );
  };
  const onEnd = (end: RankEnd) => {
    ended.add(end.rank);
    if (ended.size === ranks)
      timers.push(setTimeout(endStarter, STARTER_PATIENCE_MS + 3 * gracePeriodMs));
    if (stopped?.kind === 'signal' || !hasFailed(end) || endedByStarter.has(end.rank)) return;
    failures.push(end);
    const failure = firstCause(failures)!;
    const how = failure.error ? `failed: ${failure.error.message}` : 'failed';
    abort({ kind: 'failure' }, end.rank, `rank ${failure.rank} on ${hostOf[failure.rank]} ${how}`);
  };
  const onSignal = (signal: NodeJS.Signals) => {
    if (stopped !== null) return void kill('SIGKILL');
    stopped = { kind: 'signal', signal };
    say(`${signal}: the ranks have ${gracePeriodMs / 1000} s to end; once more ends them at once`);
    kill('SIGTERM');
    killAfter(gracePeriodMs, 'SIGKILL');
  };

  const hostOf = plan.hosts.flatMap(({ name, slots }) => slots.map(() => name));
  const hub = new Hub({
    hostOf,
    version: packageVersion,
    linkTimeoutMs: plan.linkTimeoutMs,
    startTimeoutMs: Math.max(plan.linkTimeoutMs, LEAST_START_MS),
    onFault,
    onEnd,
  });
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  try {
    const port = await hub.listen(0);
    const address = plan.masterAddress ?? (await ownAddress(plan.hosts));
    const run: HostsRun = {
      ...start.run,
      version: packageVersion,
      hosts: plan.hosts,
      launcher: { address, port, token: hub.token },
      linkTimeoutMs: plan.linkTimeoutMs,
    };
    const command = commandOf(start, run);
    child = spawn(command.program, command.words, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...command.environment },
      // A terminal's Ctrl-C is passed on by us, once.
      detached: true,
    });
    const said: string[] = [];
    const streams = [show(start, child, 'stdout', said), show(start, child, 'stderr', said)];
    const [status] = (await once(child, 'exit')) as [number | null];
    // What it left on a machine that cannot be reached holds its streams open.
    await atMost(STREAM_PATIENCE_MS, Promise.all(streams));
    for (const stream of [child.stdout, child.stderr]) stream?.destroy();
    // What ranks said last may still be on its way.
    for (let turn = 0; turn < 20 && ended.size < hub.joined.length; turn++) await sleep(50);
    const isOver = ended.size === ranks && (status === 0 || hasHung);
    if (stopped === null && failures.length === 0 && !isOver)
      stopped = { kind: 'fault', message: unexplained(command.program, status, ranks, hub, said) };
  } finally {
    for (const timer of timers) clearTimeout(timer);
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
    hub.close();
  }
  return { stopped, failures, lostHosts: [...lostHosts] };
}

function commandOf({ plan, argv }: HostsStart, run: HostsRun): CommandLine {
  const variables = { ...plan.variables, [HOSTS_VARIABLE]: JSON.stringify(run) };
  const command = commandLine(plan.kind, {
    hosts: plan.hosts,
    argv,
    variables: Object.keys(variables),
    workingFolder: process.cwd(),
    extra: plan.extra,
    asRoot: process.getuid?.() === 0,
  });
  return { ...command, environment: { ...command.environment, ...variables } };
}

/** The starter's own words, when no rank says what went wrong. */
function unexplained(
  program: string,
  status: number | null,
  ranks: number,
  hub: Hub,
  said: readonly string[],
): string {
  const joined = hub.joined.length;
  const came = joined === ranks ? '' : `; ${joined} of ${ranks} ranks came`;
  return [`${program} ended with ${status}${came}`, ...said.slice(-12)].join('\n  ');
}

/** Rank 0 speaks as if alone, the errors of others come with their rank, as on one machine. */
async function show(
  { plan, terminals, logs }: HostsStart,
  child: ChildProcess,
  kind: 'stdout' | 'stderr',
  said: string[],
): Promise<void> {
  const splitter = new LineSplitter();
  const terminal = terminals[kind];
  const showLines = async (lines: string[]) => {
    for (const line of lines) {
      const { rank, text } = unlabel(plan.kind, line);
      if (rank === null) {
        if (text.trim() !== '') said.push(text);
        continue;
      }
      logs?.[rank]?.[kind].write(`${text}\n`);
      if (rank === 0) await terminal.write(`${text}\n`);
      else if (kind === 'stderr')
        await terminal.write(`${terminal.style('cyan', `[rank ${rank}]`)} ${text}\n`);
    }
  };
  const stream = child[kind]!.setEncoding('utf8');
  try {
    for await (const chunk of stream as AsyncIterable<string>)
      await showLines(splitter.push(chunk));
  } catch {
    // Given up: what came so far is what there is.
  }
  await showLines(splitter.flush());
}

/** The address of this machine on the way to the first other one. */
async function ownAddress(hosts: readonly ChosenHost[]): Promise<string> {
  const other = hosts.find(({ name }) => !isThisMachine(name));
  if (other === undefined) return '127.0.0.1';
  try {
    return await addressTowards(other.name);
  } catch (cause) {
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `cannot find the way to ${other.name}: ${(cause as Error).message}`,
      {
        fix: 'Check the name in the hostfile, or name the address of this machine with --master_addr.',
        cause,
      },
    );
  }
}

/**
 * The address of this machine on the way to another.
 *
 * @throws Error when its name is not known, or nothing leads there
 */
export async function addressTowards(name: string): Promise<string> {
  const socket = createSocket('udp4');
  try {
    // Nothing is sent: connecting only asks the system for the way.
    socket.connect(9, name);
    await once(socket, 'connect');
    return socket.address().address;
  } finally {
    socket.close();
  }
}

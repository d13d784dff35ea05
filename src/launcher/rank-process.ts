/** One rank: its process, its streams, its end. */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { type RankError, readRankError } from './channel.ts';
import { relay, Tail, type Terminal } from './output.ts';
import { atMost } from './patience.ts';
import type { RankLogs } from './rank-log.ts';
import {
  PRIVATE_VARIABLE,
  type PrivateRunEnvironment,
  RANK_PID_VARIABLE,
} from './run-environment.ts';

export interface RankEnd {
  rank: number;
  pid: number | undefined;
  /** Exactly one of both is set. */
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  /** The uncaught error that the rank reported, or what kept it from starting. */
  error: RankError | null;
  /** The last lines of its standard error, as far as they passed through the launcher. */
  tail: readonly string[];
  /** On another machine: what is known of a rank that was lost without a word; null otherwise. */
  lost: string | null;
}

export interface RankStart {
  /** Flags of `node`, the script, its arguments. */
  argv: string[];
  environment: Omit<PrivateRunEnvironment, 'channelFd' | 'memory'>;
  /** The launcher's own descriptors of the run's shared memory. */
  controlFd: number;
  arenaFds: number[];
  masterPort: number;
  terminals: { stdout: Terminal; stderr: Terminal };
  logs: RankLogs | null;
}

/** After its exit, how long a rank's streams may stay open: a process that it left behind holds them. */
const STREAM_PATIENCE_MS = 500;
const CHANNEL_FD = 3;
const CONTROL_FD = 4;

export class RankProcess {
  readonly rank: number;
  readonly pid: number | undefined;
  /** Resolves as soon as the process is gone, with what the launcher knows by then. */
  readonly ended: Promise<RankEnd>;
  /** True until the process is gone. */
  running = true;
  readonly #child: ChildProcess;
  readonly #tail = new Tail();

  constructor(start: RankStart) {
    this.rank = start.environment.rank;
    this.#child = spawn(process.execPath, start.argv, {
      env: rankVariables(start),
      stdio: rankStdio(start),
    });
    this.pid = this.#child.pid;
    this.ended = this.#end(start);
  }

  kill(signal: NodeJS.Signals): void {
    if (this.running) this.#child.kill(signal);
  }

  async #end(start: RankStart): Promise<RankEnd> {
    const { terminals, logs } = start;
    const prefix =
      this.rank === 0 ? null : `${terminals.stderr.style('cyan', `[rank ${this.rank}]`)} `;
    const [, stdout, stderr, channel] = this.#child.stdio as (Readable | null | undefined)[];
    const log = (kind: keyof RankLogs) => logs?.[kind] ?? null;
    const streams = [
      stdout &&
        relay(stdout, { prefix, terminal: terminals.stdout, tail: null, log: log('stdout') }),
      stderr &&
        relay(stderr, { prefix, terminal: terminals.stderr, tail: this.#tail, log: log('stderr') }),
    ];
    const report = channel ? readRankError(channel) : Promise.resolve(null);

    const exit = await exitOf(this.#child);
    this.running = false;
    await atMost(STREAM_PATIENCE_MS, Promise.all([report, ...streams]));
    for (const stream of [stdout, stderr, channel]) stream?.destroy();
    const error = exit.spawnError ?? (await report);
    if (error !== null) logs?.stderr.write(`${error.text}\n`);
    logs?.stdout.close();
    logs?.stderr.close();
    return {
      rank: this.rank,
      pid: this.pid,
      exitCode: exit.exitCode,
      signal: exit.signal,
      error,
      tail: this.#tail.lines,
      lost: null,
    };
  }
}

async function exitOf(child: ChildProcess) {
  try {
    const [exitCode, signal] = (await once(child, 'exit')) as [
      number | null,
      NodeJS.Signals | null,
    ];
    return { exitCode, signal, spawnError: null };
  } catch (cause) {
    const { message } = cause as Error;
    const spawnError: RankError = { code: null, message, text: `cannot start node: ${message}` };
    return { exitCode: 1, signal: null, spawnError };
  }
}

/** Rank 0 is given the terminal itself, so that progress bars and colours work as without a launcher. */
function rankStdio({ environment, terminals, logs, controlFd, arenaFds }: RankStart): StdioOptions {
  const first = environment.rank === 0;
  const stdout = first ? (logs ? 'pipe' : 'inherit') : (logs?.stdout.fd ?? 'ignore');
  const stderr = first && !logs && terminals.stderr.isTerminal ? 'inherit' : 'pipe';
  return [first ? 'inherit' : 'ignore', stdout, stderr, 'pipe', controlFd, ...arenaFds];
}

/** The environment of a rank: the caller's, what DeepSpeed and torch name, and one private variable. */
function rankVariables(start: RankStart): NodeJS.ProcessEnv {
  const { environment, arenaFds, masterPort } = start;
  const { [RANK_PID_VARIABLE]: _, ...inherited } = process.env;
  const privateEnvironment: PrivateRunEnvironment = {
    ...environment,
    channelFd: CHANNEL_FD,
    memory: {
      controlFd: CONTROL_FD,
      arenaFds: arenaFds.map((_, index) => CONTROL_FD + 1 + index),
    },
  };
  return {
    ...inherited,
    RANK: String(environment.rank),
    LOCAL_RANK: String(environment.localRank),
    WORLD_SIZE: String(environment.worldSize),
    LOCAL_SIZE: String(environment.localSize),
    CROSS_RANK: '0',
    CROSS_SIZE: '1',
    MASTER_ADDR: '127.0.0.1',
    MASTER_PORT: String(masterPort),
    [PRIVATE_VARIABLE]: JSON.stringify(privateEnvironment),
  };
}

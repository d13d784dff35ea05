/**
 * Watches the ranks of a run until all of them are gone, and sees to it that they go: after a
 * failure, after a signal to the launcher, after a hang.
 */
import { readFileSync } from 'node:fs';
import type { RunControl } from '../native/contract.ts';
import { describeEnd, firstCause, hasFailed } from './failure.ts';
import type { Terminal } from './output.ts';
import type { RankEnd, RankProcess } from './rank-process.ts';

/** Why a run was stopped before all its ranks had ended by themselves. */
export type StopReason =
  | { kind: 'failure' }
  | { kind: 'signal'; signal: NodeJS.Signals }
  | { kind: 'hang'; rank: number; seconds: number }
  // Of several machines: what no rank can say itself.
  | { kind: 'fault'; message: string };

export interface RunOutcome {
  stopped: StopReason | null;
  /** Ranks that failed before the launcher itself began to end them, in the order of their ends. */
  failures: RankEnd[];
}

export interface SuperviseOptions {
  control: RunControl;
  /** Between asking the ranks to end and killing them. */
  gracePeriodMs: number;
  /** A rank whose heartbeat stands still for longer hangs. */
  hangTimeoutMs: number;
  stderr: Terminal;
  say: (text: string) => void;
}

/** After an abort, how long a rank may take to fail by itself, with its own stack, before SIGTERM. */
const ABORT_PATIENCE_MS = 1000;
const HEARTBEAT_CHECK_MS = 1000;
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Resolves when no rank runs any more. */
export async function supervise(
  ranks: readonly RankProcess[],
  options: SuperviseOptions,
): Promise<RunOutcome> {
  const { control, gracePeriodMs, hangTimeoutMs, stderr, say } = options;
  const failures: RankEnd[] = [];
  const timers: NodeJS.Timeout[] = [];
  let stopped: StopReason | null = null;
  let terminating = false;
  let suspect: number | null = null;

  const kill = (signal: NodeJS.Signals) => {
    terminating = true;
    for (const rank of ranks) rank.kill(signal);
  };
  const killAfter = (milliseconds: number, signal: NodeJS.Signals) => {
    timers.push(setTimeout(kill, milliseconds, signal));
  };

  /** Ranks that wait for others fail at once and say so; the rest is ended by signals. */
  const abort = (reason: StopReason, rank: number, message: string) => {
    stopped = reason;
    stderr.muted = true;
    control.abort(rank, message);
    killAfter(ABORT_PATIENCE_MS, 'SIGTERM');
    killAfter(ABORT_PATIENCE_MS + gracePeriodMs, 'SIGKILL');
  };

  const onSignal = (signal: NodeJS.Signals) => {
    if (stopped !== null) return kill('SIGKILL');
    stopped = { kind: 'signal', signal };
    say(`${signal}: the ranks have ${gracePeriodMs / 1000} s to end; once more ends them at once`);
    if (signal !== 'SIGINT' || !terminalSignalsGroup()) kill(signal);
    killAfter(gracePeriodMs, 'SIGKILL');
  };

  const onRankEnd = (end: RankEnd) => {
    // An error on the way out is told as well; the mere end is what was asked for.
    const asked = terminating && !(stopped?.kind === 'signal' && end.error !== null);
    if (asked || !hasFailed(end)) return;
    failures.push(end);
    if (stopped === null) abort({ kind: 'failure' }, end.rank, describeEnd(firstCause(failures)!));
  };

  const checkHeartbeats = () => {
    if (stopped !== null) return;
    const hung = control
      .ranks()
      .find(
        ({ rank, joined, left, heartbeatAgeMs }) =>
          joined && !left && ranks[rank]?.running && heartbeatAgeMs > hangTimeoutMs,
      );
    // Twice in a row: after the whole job was suspended (Ctrl-Z), every heartbeat looks old once.
    const confirmed = hung !== undefined && hung.rank === suspect;
    suspect = hung?.rank ?? null;
    if (!confirmed) return;
    const seconds = Math.round(hung.heartbeatAgeMs / 1000);
    const message = `rank ${hung.rank} (pid ${hung.pid}) has shown no sign of life for ${seconds} s`;
    abort({ kind: 'hang', rank: hung.rank, seconds }, hung.rank, message);
  };

  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  timers.push(setInterval(checkHeartbeats, HEARTBEAT_CHECK_MS));
  try {
    await Promise.all(ranks.map(async (rank) => onRankEnd(await rank.ended)));
  } finally {
    for (const timer of timers) clearTimeout(timer);
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
  }
  return { stopped, failures };
}

/**
 * Whether Ctrl-C reaches the ranks without the launcher's help: a terminal signals its whole
 * foreground process group, and a rank that counts signals must not get each one twice.
 */
function terminalSignalsGroup(): boolean {
  if (process.platform !== 'linux') return process.stdin.isTTY;
  const stat = readFileSync('/proc/self/stat', 'utf8');
  // After the command in parentheses: state, parent, group, session, terminal, foreground group.
  const [, , group, , terminal, foreground] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return terminal !== '0' && group === foreground;
}

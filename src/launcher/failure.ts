/** What the launcher says when ranks fail: which one was first, why as far as it shows, its own error. */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { RankEnd } from './rank-process.ts';

/** Codes of errors that a rank meets because of another one's end; never the first cause. */
const CONSEQUENCES = new Set(['COMM_PEER_DIED', 'COMM_PEER_LEFT', 'COMM_ABORTED', 'PEER_FAILED']);

export function hasFailed(end: RankEnd): boolean {
  return end.exitCode !== 0;
}

export function isConsequence(end: RankEnd): boolean {
  return end.error?.code != null && CONSEQUENCES.has(end.error.code);
}

/**
 * The failure that the run is reported by.
 *
 * @param failures in the order in which the ranks ended. Two ranks that end within one turn of the
 * event loop come in no meaningful order, so a rank that only fell over another one comes second.
 */
export function firstCause(failures: readonly RankEnd[]): RankEnd | null {
  return failures.find((end) => !isConsequence(end)) ?? failures[0] ?? null;
}

/** As shells have it: the exit code, or 128 + the number of the signal. */
export function exitStatus({ exitCode, signal }: Pick<RankEnd, 'exitCode' | 'signal'>): number {
  return signal === null ? (exitCode ?? 1) : 128 + constants.signals[signal];
}

/** `rank 1 (pid 4711) was killed by SIGKILL`; also what the other ranks are told. */
export function describeEnd({ rank, pid, exitCode, signal, lost }: RankEnd): string {
  if (lost !== null) return lost;
  const who = pid === undefined ? `rank ${rank}` : `rank ${rank} (pid ${pid})`;
  return signal === null
    ? `${who} failed with exit code ${exitCode}`
    : `${who} was killed by ${signal}`;
}

/** `rank 3`, `ranks 0-2`, `ranks 0, 2-3`. */
export function nameRanks(ranks: readonly number[]): string {
  const sorted = ranks.toSorted((a, b) => a - b);
  if (sorted.length === 1) return `rank ${sorted[0]}`;
  const runs: [first: number, last: number][] = [];
  for (const rank of sorted) {
    const run = runs.at(-1);
    if (run && rank === run[1] + 1) run[1] = rank;
    else runs.push([rank, rank]);
  }
  return `ranks ${runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(', ')}`;
}

/** What usually lies behind a signal that no one here sent. */
export function hintFor(end: RankEnd, oomKillsDuringRun: number | null): string | null {
  if (end.signal === 'SIGKILL') {
    if (oomKillsDuringRun !== null && oomKillsDuringRun > 0)
      return `the system ran out of memory: its out-of-memory killer struck ${oomKillsDuringRun} time(s) in this control group. Use fewer ranks, a higher ZeRO stage or a smaller micro batch.`;
    return oomKillsDuringRun === null
      ? 'likely the out-of-memory killer of the system; its log (dmesg) tells. Use fewer ranks, a higher ZeRO stage or a smaller micro batch.'
      : 'the out-of-memory killer of this control group was not at work; somebody sent the signal, or the whole machine ran out of memory (dmesg tells).';
  }
  if (end.signal === 'SIGBUS')
    return 'memory that was promised could not be had; the machine or its control group is out of memory.';
  if (end.signal === 'SIGSEGV' || end.signal === 'SIGABRT' || end.signal === 'SIGILL')
    return 'native code crashed; `ds_report` shows the versions that a report of this should name.';
  return null;
}

/** The rank's own words: its uncaught error where it reported one, else the end of its standard error. */
export function ownError(end: RankEnd): readonly string[] {
  return end.error !== null ? end.error.text.split('\n') : end.tail;
}

/**
 * How often the out-of-memory killer has struck in this process's control group so far; null where
 * the system does not say.
 */
export function oomKillCount(): number | null {
  let groups: string;
  try {
    groups = readFileSync('/proc/self/cgroup', 'utf8');
  } catch {
    return null;
  }
  const unified = /^0::(\S*)$/m.exec(groups)?.[1] ?? '';
  const memory = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(\S*)$/m.exec(groups)?.[1] ?? '';
  // Version 2, then 1; in a container the group's own path may not be visible, only its root.
  const files = [
    `/sys/fs/cgroup${unified}/memory.events`,
    '/sys/fs/cgroup/memory.events',
    `/sys/fs/cgroup/memory${memory}/memory.oom_control`,
    '/sys/fs/cgroup/memory/memory.oom_control',
  ];
  for (const file of files)
    try {
      const count = /^oom_kill (\d+)$/m.exec(readFileSync(file, 'utf8'))?.[1];
      if (count !== undefined) return Number(count);
    } catch {
      // Not this one.
    }
  return null;
}

/** The end of a run that did not go well, in words and in the launcher's exit status. */
import { constants } from 'node:os';
import {
  describeEnd,
  exitStatus,
  firstCause,
  hintFor,
  isConsequence,
  nameRanks,
  oomKillCount,
  ownError,
} from './failure.ts';
import type { Terminal } from './output.ts';
import type { RankEnd } from './rank-process.ts';
import type { RunOutcome } from './supervise.ts';

/** The launcher's exit status: the first failing rank's, or that of the signal that ended the run. */
export function runStatus({ stopped, failures }: RunOutcome): number {
  if (stopped?.kind === 'signal') return 128 + constants.signals[stopped.signal];
  if (stopped?.kind === 'fault') return 1;
  const cause = firstCause(failures);
  if (cause !== null) return exitStatus(cause);
  return stopped === null ? 0 : 1;
}

/**
 * Lines for the terminal; the error of the rank that failed first comes last.
 *
 * @param oomKillsBefore what `oomKillCount` gave when the run started.
 */
export function reportLines(
  { stopped, failures }: RunOutcome,
  worldSize: number,
  oomKillsBefore: number | null,
  terminal: Terminal,
): string[] {
  const mark = terminal.style('red', 'deepspeed:');
  if (stopped?.kind === 'signal') {
    const own = failures.filter((end) => end.error !== null && !isConsequence(end));
    const errors = groupBySameError(own).flatMap((group) => quote(group, terminal));
    return [...errors, `${mark} stopped by ${stopped.signal}`];
  }
  if (stopped?.kind === 'hang')
    return [
      `${mark} rank ${stopped.rank} hung: no sign of life for ${stopped.seconds} s; all ranks were stopped`,
      '  fix: a rank that was suspended or starved of its cores looks like this; --hang_timeout SECONDS sets the patience.',
    ];
  if (stopped?.kind === 'fault') return [`${mark} ${stopped.message}`];
  const cause = firstCause(failures);
  if (cause === null) return [];
  const hint = hintLines(cause, oomKillsBefore);
  if (worldSize === 1) {
    // What it wrote to its standard error is on the terminal already.
    if (cause.error !== null) return [...ownError(cause)];
    return cause.signal === null ? [] : [`${mark} ${describeEnd(cause)}`, ...hint];
  }
  const alike = [cause, ...failures.filter((end) => end !== cause && isSameError(end, cause))];
  const others = failures.filter((end) => !alike.includes(end) && !isConsequence(end));
  const stoppedToo = alike.length === worldSize ? '' : '; the other ranks were stopped';
  return [
    ...groupBySameError(others).map(
      (group) => `${mark} ${describeEnds(group)} as well${firstWords(group[0]!)}`,
    ),
    `${mark} ${describeEnds(alike)}${stoppedToo}`,
    ...hint,
    ...quote(alike, terminal),
  ];
}

/** The words of ranks that failed alike, once. */
function quote(ends: readonly RankEnd[], terminal: Terminal): string[] {
  const who = terminal.style('cyan', `[${nameRanks(ranksOf(ends))}]`);
  return ownError(ends[0]!).map((line) => `${who} ${line}`);
}

function ranksOf(ends: readonly RankEnd[]): number[] {
  return ends.map(({ rank }) => rank);
}

/** Ranks run one script: a mistake in it, and an exit code of its own, ends all of them alike. */
function isSameError(a: RankEnd, b: RankEnd): boolean {
  if (a.error === null && b.error === null)
    return a.lost === null && b.lost === null && a.exitCode !== null && a.exitCode === b.exitCode;
  return a.error !== null && a.error.message === b.error?.message;
}

/** Each group in the order of its ends. */
function groupBySameError(ends: readonly RankEnd[]): RankEnd[][] {
  const groups: RankEnd[][] = [];
  for (const end of ends) {
    const group = groups.find(([first]) => isSameError(first!, end));
    if (group) group.push(end);
    else groups.push([end]);
  }
  return groups;
}

function describeEnds(ends: readonly RankEnd[]): string {
  if (ends.length === 1) return describeEnd(ends[0]!);
  return `${nameRanks(ranksOf(ends))} failed with exit code ${exitStatus(ends[0]!)}`;
}

function firstWords(end: RankEnd): string {
  const words = end.error?.message.split('\n')[0] ?? end.tail.at(-1);
  return words === undefined ? '' : `: ${words}`;
}

function hintLines(cause: RankEnd, oomKillsBefore: number | null): string[] {
  const now = oomKillCount();
  const during = now === null || oomKillsBefore === null ? null : now - oomKillsBefore;
  const hint = hintFor(cause, during);
  return hint === null ? [] : [`  ${hint}`];
}

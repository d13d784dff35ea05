/** The end of a run that did not go well, in words and in the launcher's exit status. */
import { constants } from 'node:os';
import {
  describeEnd,
  exitStatus,
  firstCause,
  hintFor,
  isConsequence,
  oomKillCount,
  ownError,
} from './failure.ts';
import type { Terminal } from './output.ts';
import type { RankEnd } from './rank-process.ts';
import type { RunOutcome } from './supervise.ts';

/** The launcher's exit status: the first failing rank's, or that of the signal that ended the run. */
export function runStatus({ stopped, failures }: RunOutcome): number {
  if (stopped?.kind === 'signal') return 128 + constants.signals[stopped.signal];
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
  if (stopped?.kind === 'signal') return [`${mark} stopped by ${stopped.signal}`];
  if (stopped?.kind === 'hang')
    return [
      `${mark} rank ${stopped.rank} hung: no sign of life for ${stopped.seconds} s; all ranks were stopped`,
      '  fix: a rank that was suspended or starved of its cores looks like this; --hang_timeout SECONDS sets the patience.',
    ];
  const cause = firstCause(failures);
  if (cause === null) return [];
  const hint = hintLines(cause, oomKillsBefore);
  if (worldSize === 1) {
    // A single rank's error is the last thing on the terminal already.
    return cause.signal === null ? [] : [`${mark} ${describeEnd(cause)}`, ...hint];
  }
  return [
    ...failures
      .filter((end) => end !== cause && !isConsequence(end) && !isSameError(end, cause))
      .map((end) => `${mark} ${describeEnd(end)} as well${firstWords(end)}`),
    `${mark} ${describeEnd(cause)}; the other ranks were stopped`,
    ...hint,
    ...ownError(cause).map((line) => `${terminal.style('cyan', `[rank ${cause.rank}]`)} ${line}`),
  ];
}

/** Ranks run one script: a mistake in it fails all of them alike. */
function isSameError(a: RankEnd, b: RankEnd): boolean {
  return a.error !== null && a.error.message === b.error?.message;
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

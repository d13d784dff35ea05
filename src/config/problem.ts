/** What is wrong with a config, as data; rendered once, at the end, for all problems of a file. */
import { DeepSpeedError } from '../errors.ts';

/**
 * - `unknown`: no such key. `value`: wrong type or range. `unavailable`: documented by DeepSpeed, not
 *   here (yet). `auto`: nobody filled it. `mismatch`: differs from an argument given in code.
 *   `rule`: two keys that exclude each other. `batch`: batch sizes that do not multiply.
 */
export type ProblemKind =
  | 'unknown'
  | 'value'
  | 'unavailable'
  | 'auto'
  | 'mismatch'
  | 'rule'
  | 'batch';

export interface Problem {
  kind: ProblemKind;
  /** Dotted, from the root of the file. */
  path: string;
  got?: unknown;
  /** What would have been right, in words. */
  expected: string;
  /** The key that was probably meant. */
  nearest?: string | undefined;
}

/** Lines of the file by dotted path; empty when the config was an object. */
export type Lines = ReadonlyMap<string, number>;

function show(value: unknown): string {
  const shown = JSON.stringify(value) ?? String(value);
  return shown.length > 60 ? `${shown.slice(0, 57)}...` : shown;
}

export function renderProblem(problem: Problem, lines: Lines): string {
  const line = lines.get(problem.path);
  const place = line === undefined ? problem.path : `${problem.path} (line ${line})`;
  const hint = problem.nearest === undefined ? '' : `; did you mean ${problem.nearest}?`;
  switch (problem.kind) {
    case 'value':
      return `${place}: got ${show(problem.got)}, expected ${problem.expected}${hint}`;
    default:
      return `${place}: ${problem.expected}${hint}`;
  }
}

/** One error for all problems. Its code says NOT_AVAILABLE_YET only when nothing else is wrong. */
export function configError(
  problems: readonly Problem[],
  source: string,
  lines: Lines,
): DeepSpeedError {
  const code = problems.every((problem) => problem.kind === 'unavailable')
    ? 'NOT_AVAILABLE_YET'
    : 'CONFIG_INVALID';
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  const list = problems.map((problem) => `\n  - ${renderProblem(problem, lines)}`).join('');
  return new DeepSpeedError(code, `${source} has ${count}:${list}`, {
    data: { source, problems },
  });
}

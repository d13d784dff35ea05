/** Runs TensorFlow.js scripts in one plain process and over ranks, and compares what they print. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Finished, runLauncher } from './launcher.run.ts';
import { mustRun } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const marker = 'RESULTS ';

export function tfjsFixture(name: string): string {
  return join(root, 'integration-tests', 'fixtures', 'tfjs', name);
}

/** The JSON that a script prints after `RESULTS `. */
export function resultsIn(output: string): Record<string, unknown> {
  const line = output.split('\n').find((each) => each.startsWith(marker));
  if (!line) throw new Error(`the script printed no results:\n${output}`);
  return JSON.parse(line.slice(marker.length)) as Record<string, unknown>;
}

/** A script as its user runs it: plain node. */
export async function alone(script: string, ...words: string[]): Promise<Record<string, unknown>> {
  return resultsIn(await mustRun(process.execPath, [tfjsFixture(script), ...words], { cwd: root }));
}

/** The same script under the launcher. `flags` come before the script. */
export async function overRanks(
  ranks: number,
  script: string,
  words: readonly string[] = [],
  { flags = [], env = {} }: { flags?: readonly string[]; env?: NodeJS.ProcessEnv } = {},
): Promise<Finished & { results(): Record<string, unknown> }> {
  const all = ['-q', '--num_procs', String(ranks), ...flags, tfjsFixture(script), ...words];
  const finished = await runLauncher(all, { cwd: root, env });
  return { ...finished, results: () => resultsIn(finished.stdout + finished.stderr) };
}

/**
 * The largest difference of two results, number by number, relative to the larger of the number and
 * `floor`; infinite where anything else differs.
 */
export function difference(one: unknown, other: unknown, floor = 1e-3): number {
  if (typeof one === 'number' && typeof other === 'number') {
    return Math.abs(one - other) / Math.max(floor, Math.abs(one));
  }
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null) {
    return one === other ? 0 : Number.POSITIVE_INFINITY;
  }
  const keys = new Set([...Object.keys(one), ...Object.keys(other)]);
  const values = [...keys].map((key) =>
    difference(
      (one as Record<string, unknown>)[key],
      (other as Record<string, unknown>)[key],
      floor,
    ),
  );
  return Math.max(0, ...values);
}

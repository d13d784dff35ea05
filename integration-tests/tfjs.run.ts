/** Runs TensorFlow.js scripts in one plain process and over ranks, and compares what they print. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Outcome, Run } from './fixtures/tfjs/rules.ts';
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

/** Cases of rules.ts over one launch: starting ranks takes longer than most of them. */
export class Cases {
  readonly #runs: Record<string, Run>;
  readonly #env: NodeJS.ProcessEnv;
  readonly #launches = new Map<number, { finished: Finished; outcomes: Outcome[][] }>();
  /** Where the cases write. */
  readonly folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-tfjs-'));

  constructor(runs: Record<string, Run>, env: NodeJS.ProcessEnv = {}) {
    this.#runs = runs;
    this.#env = env;
  }

  async launch(ranks: number): Promise<Finished> {
    const words = [JSON.stringify(Object.values(this.#runs)), this.folder];
    const finished = await overRanks(ranks, 'rules.ts', words, { env: this.#env });
    if (finished.status !== 0) throw new Error(finished.stderr);
    const outcomes = Array.from({ length: ranks }, (_, rank) =>
      JSON.parse(readFileSync(join(this.folder, `outcomes-${rank}`), 'utf8')),
    );
    this.#launches.set(ranks, { finished, outcomes });
    return finished;
  }

  /** What the launch with so many ranks came to, by rank. */
  outcomes(ranks: number, name: string): Outcome[] {
    const at = Object.keys(this.#runs).indexOf(name);
    if (at < 0) throw new Error(`no case ${name}`);
    return this.#launches.get(ranks)!.outcomes.map((all) => all[at]!);
  }

  /** What every rank returned: the same, to the bit. */
  value(ranks: number, name: string): unknown {
    const [first, ...rest] = this.outcomes(ranks, name);
    if (first!.error !== undefined) throw new Error(`${name}: ${first!.error}`);
    for (const other of rest) {
      if (difference(first, other) !== 0) throw new Error(`${name}: the ranks differ`);
    }
    return first!.value;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
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

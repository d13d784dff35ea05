/**
 * Probes among the ranks of one machine, through shared memory. Each is a small run of its own, so that one that hangs
 * is ended by its time limit. Where there are cores enough each rank keeps its own, in every probe.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { allowedCores, bindingPlan, usableCores } from '../cores.ts';
import { typescriptFlags } from '../script.ts';
import { parseLine } from './agent-protocol.ts';
import { endWithThisProcess } from './children.ts';
import type { Lost, Probe, ProbePlan, Probes, Reading } from './probes.ts';
import type { RankJob } from './rank-launch.ts';

/** Processes that have not come together by then never will. */
const START_MS = 60_000;

export class RankProbes implements Probes {
  readonly names: readonly string[];
  readonly sharesCores: boolean;
  /** Nobody is lost here: a rank is started anew for each probe. */
  readonly lost: readonly Lost[] = [];
  /** Of each rank, or null where they share the cores. */
  readonly #cores: number[][] | null;
  readonly #probeMs: number;
  readonly #running = new Set<ChildProcess>();

  constructor(ranks: number, probeMs: number) {
    this.#probeMs = probeMs;
    const cores = usableCores();
    this.sharesCores = ranks > cores;
    const each = Math.floor(Math.min(cores, allowedCores().length) / ranks);
    this.#cores = each === 0 ? null : bindingPlan(ranks, null).map((cores) => cores.slice(0, each));
    this.names = Array.from({ length: ranks }, (_, rank) => {
      const cores = this.#cores?.[rank];
      if (cores === undefined) return `rank ${rank}`;
      return `rank ${rank} (${cores.length === 1 ? 'core' : 'cores'} ${cores.join(',')})`;
    });
  }

  present(): number[] {
    return [...this.names.keys()];
  }

  measure(groups: readonly (readonly number[])[], plan: ProbePlan): Promise<Probe[]> {
    return Promise.all(groups.map((group) => this.#measureOne(group, plan)));
  }

  async close(): Promise<void> {
    for (const child of this.#running) child.kill('SIGKILL');
  }

  #measureOne(group: readonly number[], plan: ProbePlan): Promise<Probe> {
    const cores = this.#cores && group.flatMap((member) => this.#cores![member]!);
    const child = spawn(process.execPath, wordsOf({ ranks: group.length, cores, plan }), {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1' },
    });
    endWithThisProcess(child);
    this.#running.add(child);
    const lines: string[] = [];
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = `${said}${text}`.slice(-2000);
    });
    return new Promise((resolve) => {
      let late: string | null = null;
      // Its ranks end with it.
      const giveUp = (what: string, afterMs: number) =>
        setTimeout(() => {
          late = `${what} after ${afterMs / 1000} s`;
          child.kill('SIGKILL');
        }, afterMs);
      let timer = giveUp('its ranks had not started', START_MS);
      // The first line says that all are there, the second is what they measured.
      createInterface({ input: child.stdout }).on('line', (line) => {
        clearTimeout(timer);
        if (lines.push(line) === 1) timer = giveUp('not done', this.#probeMs);
      });
      const end = (error: string | null) => {
        clearTimeout(timer);
        this.#running.delete(child);
        const readings = error === null ? parseLine<Reading[]>(lines[1] ?? '') : null;
        resolve({
          readings: readings ?? [],
          error: readings === null ? (error ?? said.trim()) : null,
        });
      };
      child.on('error', ({ message }) => end(message));
      child.on('close', (status) => end(late ?? (status === 0 ? null : said.trim())));
    });
  }
}

function wordsOf(job: RankJob): string[] {
  const extension = import.meta.url.slice(-3);
  const path = fileURLToPath(new URL(`rank-launch${extension}`, import.meta.url));
  return [...(extension === '.ts' ? typescriptFlags(path) : []), path, JSON.stringify(job)];
}

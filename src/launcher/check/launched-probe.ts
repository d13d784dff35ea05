/**
 * Probes that are small runs of their own, started by the launcher: one that hangs is ended by its time limit, and its
 * ranks with it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { typescriptFlags } from '../script.ts';
import { parseLine } from './agent-protocol.ts';
import { endWithThisProcess } from './children.ts';
import type { Probe, Reading } from './probes.ts';
import type { RankJob } from './rank-launch.ts';

/** Processes that have not come together by then never will. */
const START_MS = 60_000;
/** For a launcher to end its ranks elsewhere. */
const END_MS = 3000;
/** For ranks that have measured to end: on a busy machine that takes longer than what was measured. */
const PART_MS = 60_000;

export class LaunchedProbes {
  readonly #probeMs: number;
  readonly #running = new Set<ChildProcess>();

  /** @param probeMs time limit of one probe, without the start of its ranks */
  constructor(probeMs: number) {
    this.#probeMs = probeMs;
  }

  /** Ends what is still under way. */
  close(): void {
    for (const child of this.#running) child.kill('SIGKILL');
  }

  measure(job: RankJob): Promise<Probe> {
    const child = spawn(process.execPath, wordsOf(job), {
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
      const giveUp = (what: string, afterMs: number) =>
        setTimeout(() => {
          late = `${what} after ${afterMs / 1000} s`;
          child.kill(job.hosts === null ? 'SIGKILL' : 'SIGTERM');
          timer = setTimeout(() => child.kill('SIGKILL'), END_MS);
        }, afterMs);
      let timer = giveUp('its ranks had not started', START_MS);
      // The first line says that all are there, the second is what they measured.
      createInterface({ input: child.stdout }).on('line', (line) => {
        clearTimeout(timer);
        timer =
          lines.push(line) === 1
            ? giveUp('not done', this.#probeMs)
            : giveUp('its ranks had measured, and not ended', PART_MS);
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

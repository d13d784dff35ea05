/** Ranks for tests: processes, started with inherited shared memory as the launcher starts them, and threads. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { NativeAddon, RunFds } from './contract.ts';

/** The file that `loadAddon` loads here. */
export function addonFile(): string {
  const built = `../../prebuilds/${process.platform}-${process.arch}/deepspeed.node`;
  return process.env.DEEPSPEED_JS_ADDON ?? fileURLToPath(new URL(built, import.meta.url));
}

/** Runs a TypeScript file once for each task, as its `workerData`; the one message that each posts. */
export function rankThreads<Task, Result>(fixture: URL, tasks: readonly Task[]): Promise<Result[]> {
  // Node 20 reads no TypeScript, and workers do not inherit vitest's own loader.
  const load = `import('tsx/esm/api').then(({ tsImport }) => tsImport(${JSON.stringify(fixture.href)}, ${JSON.stringify(import.meta.url)}))`;
  return Promise.all(
    tasks.map(
      (workerData) =>
        new Promise<Result>((resolve, reject) => {
          const worker = new Worker(load, { eval: true, workerData });
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
    ),
  );
}

export interface RankProcess {
  child: ChildProcess;
  /** Resolves when the process has ended: its output and how it ended. */
  ended: Promise<{ output: string; code: number | null; signal: string | null }>;
  /** Resolves when the output contains the text; rejects when the process ends without it. */
  printed(text: string): Promise<void>;
}

/**
 * Runs `body` (CommonJS source) in one process a rank. It sees `addon`, `rank`, `worldSize`, `run` (the
 * options of joinRun and of the shm backend), `say(text)`, which writes one line at once, and
 * `attempt(fn)`, which says `CODE message` of what fn throws.
 */
export function startRanks(
  addon: NativeAddon,
  worldSize: number,
  body: string,
): {
  fds: RunFds;
  ranks: RankProcess[];
} {
  const fds = addon.createRunFds(worldSize);
  const ranks = Array.from({ length: worldSize }, (_, rank) => startRank(fds, rank, body));
  return { fds, ranks };
}

export function startRank(fds: RunFds, rank: number, body: string): RankProcess {
  const worldSize = fds.arenaFds.length;
  const prelude = `
    const addon = require(${JSON.stringify(addonFile())});
    const rank = ${rank}, worldSize = ${worldSize};
    const run = { backend: 'shm', rank, worldSize, controlFd: 3, parentPid: ${process.pid},
      arenaFds: Array.from({ length: worldSize }, (_, i) => 4 + i), hangTimeoutMs: 60000 };
    const say = (text) => require('fs').writeSync(1, text + '\\n');
    const attempt = (fn) => { try { fn(); say('no error'); } catch (e) { say(e.code + ' ' + e.message); } };
  `;
  const child = spawn(process.execPath, ['-e', prelude + body], {
    stdio: ['ignore', 'pipe', 'inherit', fds.controlFd, ...fds.arenaFds],
  });
  let output = '';
  const watchers = new Set<() => void>();
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    for (const watcher of watchers) watcher();
  });
  const ended = new Promise<{ output: string; code: number | null; signal: string | null }>(
    (resolve) => child.on('close', (code, signal) => resolve({ output, code, signal })),
  );
  const printed = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => output.includes(text) && resolve();
      watchers.add(look);
      look();
      void ended.then(() => reject(new Error(`rank ${rank} ended without "${text}":\n${output}`)));
    });
  return { child, ended, printed };
}

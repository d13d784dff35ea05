/** For tests: ranks that are threads of this process, each running one fixture file. */
import { randomUUID } from 'node:crypto';
import { Worker } from 'node:worker_threads';

/** What a fixture finds in its `workerData`. */
export interface RankThread<Task> {
  task: Task;
  world: { key: string; rank: number; worldSize: number };
}

/**
 * Runs a TypeScript file once for every rank.
 *
 * @returns the one message that each rank posts, in rank order
 */
export async function runRanks<Task, Result>(
  fixture: URL,
  worldSize: number,
  task: Task,
): Promise<Result[]> {
  // Node 20 reads no TypeScript, and workers do not inherit vitest's own loader.
  const load = `import('tsx/esm/api').then(({ tsImport }) => tsImport(${JSON.stringify(fixture.href)}, ${JSON.stringify(import.meta.url)}))`;
  const key = randomUUID();
  const run = (rank: number) =>
    new Promise<Result>((resolve, reject) => {
      const workerData: RankThread<Task> = { task, world: { key, rank, worldSize } };
      const worker = new Worker(load, { eval: true, workerData });
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => reject(new Error(`rank ${rank} ended without a result`)));
    });
  return Promise.all(Array.from({ length: worldSize }, (_, rank) => run(rank)));
}

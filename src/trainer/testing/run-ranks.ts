/** For tests: ranks that are threads of this process, kept between runs since starting one is slow. */
import { randomUUID } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { afterAll } from 'vitest';

/** Where a rank stands among those of its run. */
export interface World {
  key: string;
  rank: number;
  worldSize: number;
}

export interface RankError {
  code?: string;
  message: string;
  fix?: string;
}

/** What `run` of a fixture returned on one rank, or threw. */
export interface RankReply<Result> {
  value?: Result;
  error?: RankError;
}

class RankThread {
  readonly #worker: Worker;
  #take: (reply: RankReply<unknown>) => void = () => {};
  #fail: (error: Error) => void = () => {};

  constructor(fixture: string) {
    this.#worker = new Worker(new URL('rank-thread.mjs', import.meta.url), { workerData: fixture });
    this.#worker.on('message', (reply) => this.#take(reply));
    this.#worker.on('error', (error: Error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('a rank ended without a result')));
  }

  run(task: unknown, world: World): Promise<RankReply<unknown>> {
    return new Promise((resolve, reject) => {
      this.#take = resolve;
      this.#fail = reject;
      this.#worker.postMessage({ task, world });
    });
  }

  async end(): Promise<void> {
    this.#fail = () => {};
    await this.#worker.terminate();
  }
}

const threads: RankThread[] = [];
const idle = new Map<string, RankThread[]>();
afterAll(async () => {
  idle.clear();
  await Promise.all(threads.splice(0).map((thread) => thread.end()));
});

function startThread(fixture: string): RankThread {
  const thread = new RankThread(fixture);
  threads.push(thread);
  return thread;
}

/**
 * Runs a fixture once for every rank.
 *
 * @param fixture exports `run(task: Task, world: World): Promise<Result>`; loaded once a thread
 * @returns what each rank came to, in rank order
 */
export async function attemptRanks<Task, Result>(
  fixture: URL,
  worldSize: number,
  task: Task,
): Promise<RankReply<Result>[]> {
  const { href } = fixture;
  const kept = idle.get(href) ?? [];
  idle.set(href, kept);
  const key = randomUUID();
  return Promise.all(
    Array.from({ length: worldSize }, async (_, rank) => {
      const thread = kept.pop() ?? startThread(href);
      const reply = await thread.run(task, { key, rank, worldSize });
      kept.push(thread);
      return reply as RankReply<Result>;
    }),
  );
}

/** The same for ranks that must succeed; throws what any of them threw. */
export async function runRanks<Task, Result>(
  ...run: Parameters<typeof attemptRanks<Task, Result>>
): Promise<Result[]> {
  const replies = await attemptRanks<Task, Result>(...run);
  const errors = replies.flatMap(({ error }) => (error ? [`${error.code}: ${error.message}`] : []));
  if (errors.length > 0) throw new Error(errors.join('\n'));
  return replies.map(({ value }) => value!);
}

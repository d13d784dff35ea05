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
  #reject: (error: Error) => void = () => {};
  /** Why it is no more; told to the run that it failed in, or to the next one. */
  #death: Error | null = null;
  #isAsked = false;
  #isTold = false;

  constructor(fixture: string) {
    this.#worker = new Worker(new URL('rank-thread.mjs', import.meta.url), { workerData: fixture });
    this.#worker.on('message', (reply) => {
      this.#isAsked = false;
      this.#take(reply);
    });
    this.#worker.on('error', (error: Error) => this.#die(error));
    this.#worker.on('exit', () => this.#die(new Error('a rank ended without a result')));
  }

  run(task: unknown, world: World): Promise<RankReply<unknown>> {
    if (this.#death !== null) return Promise.reject(this.#told(this.#death));
    return new Promise((resolve, reject) => {
      this.#take = resolve;
      this.#reject = reject;
      this.#isAsked = true;
      this.#worker.postMessage({ task, world });
    });
  }

  /** @throws Error that ended it after its last reply, where no run was told */
  async end(): Promise<void> {
    const death = this.#death;
    this.#death ??= new Error('ended');
    await this.#worker.terminate();
    if (death !== null && !this.#isTold) throw death;
  }

  #die(error: Error): void {
    if (this.#death !== null) return;
    this.#death = error;
    if (this.#isAsked) this.#reject(this.#told(error));
  }

  #told(error: Error): Error {
    this.#isTold = true;
    return error;
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

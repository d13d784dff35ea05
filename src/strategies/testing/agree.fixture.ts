/** One rank of agree.test.ts: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import { openRuntime } from '../../runtime.ts';
import type { RankThread } from '../../trainer/testing/run-ranks.ts';
import { agree, fromRankZero, gatherJson, gatherJsonSync } from '../agree.ts';

export interface AgreeTask {
  scenario: keyof typeof scenarios;
  hangTimeoutMs: number;
  /** One int32 that ranks wake each other with. */
  signal: SharedArrayBuffer;
}

export interface AgreeResult {
  value?: unknown;
  error?: { code: string; message: string; fix?: string };
}

const { task, world } = workerData as RankThread<AgreeTask>;
const { rank } = world;
const { hangTimeoutMs } = task;
const runtime = openRuntime({ world: { ...world, hangTimeoutMs }, threads: 1 });
const signal = new Int32Array(task.signal);

/** Blocks this rank until another one has signalled. */
const awaitSignal = () => Atomics.wait(signal, 0, 0);
const giveSignal = () => {
  Atomics.store(signal, 0, 1);
  Atomics.notify(signal, 0);
};

const scenarios = {
  gather: async () => ({
    /** Lengths around a word, text beyond ASCII. */
    text: await gatherJson(runtime, 'é'.repeat(rank) + 'x'.repeat(rank)),
    mixed: await gatherJson(runtime, rank === 0 ? [] : { rank, nested: { list: [1, null] } }),
    lengths: (await gatherJson(runtime, 'x'.repeat(rank * 100_001))).map(({ length }) => length),
    blocking: gatherJsonSync(runtime, { of: rank }),
    first: await fromRankZero(runtime, `of ${rank}`),
  }),
  failure: () =>
    agree(runtime, async () => {
      if (rank > 0) throw Object.assign(new Error(`no ${rank}`), { code: 'X', fix: 'mend it' });
    }),
  /** Rank 1 comes once a timer of rank 0 has fired; were rank 0 blocked, it never would. */
  timers: async () => {
    if (rank === 1) awaitSignal();
    else setTimeout(giveSignal, 0);
    return gatherJson(runtime, rank);
  },
  absent: async () => {
    if (rank === 1) return void awaitSignal();
    return gatherJson(runtime, rank).finally(giveSignal);
  },
  leaves: async () => {
    if (rank === 1) return runtime.close('rank 1 had enough');
    return gatherJson(runtime, rank);
  },
  memory: async () => {
    const held = () => runtime.engine.memory().current.communication;
    const before = held();
    await gatherJson(runtime, 'x'.repeat(1000));
    return held() - before;
  },
};

const result: AgreeResult = {};
try {
  result.value = await scenarios[task.scenario]();
} catch (thrown) {
  const { code, message, fix } = thrown as { code: string; message: string; fix?: string };
  result.error = { code, message, ...(fix && { fix }) };
}
parentPort!.postMessage(result);

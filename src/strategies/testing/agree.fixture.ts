/** One rank of agree.test.ts. */
import { openRuntime, type Runtime } from '../../runtime.ts';
import type { World } from '../../trainer/testing/run-ranks.ts';
import { agree, fromRankZero, gatherJson, gatherJsonSync } from '../agree.ts';

export interface AgreeTask {
  scenario: keyof typeof scenarios;
  hangTimeoutMs: number;
  /** One int32 that ranks wake each other with. */
  signal: SharedArrayBuffer;
}

/** Of the run under way: a thread plays one at a time. */
let rank: number;
let runtime: Runtime;
let signal: Int32Array;

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

export async function run(task: AgreeTask, world: World): Promise<unknown> {
  rank = world.rank;
  signal = new Int32Array(task.signal);
  runtime = openRuntime({ world: { ...world, hangTimeoutMs: task.hangTimeoutMs }, threads: 1 });
  try {
    return await scenarios[task.scenario]();
  } finally {
    runtime.close();
  }
}

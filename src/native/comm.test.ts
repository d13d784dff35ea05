import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { RunFds } from './contract.ts';
import { loadAddon } from './load.ts';
import { addonFile, type RankProcess, startRank, startRanks } from './rank-testing.ts';

const addon = loadAddon();
const opened: { fds: RunFds; ranks: RankProcess[] }[] = [];

function start(worldSize: number, body: string) {
  const run = startRanks(addon, worldSize, body);
  opened.push(run);
  return run;
}

afterEach(() => {
  for (const { fds, ranks } of opened.splice(0)) {
    for (const { child } of ranks) child.kill('SIGKILL');
    addon.closeFds([fds.controlFd, ...fds.arenaFds]);
  }
});

const outputs = (ranks: RankProcess[]) =>
  Promise.all(ranks.map(async ({ ended }) => (await ended).output));

describe('ranks that are processes', () => {
  it('reduce small and large arrays alike, and see each other join and leave', async () => {
    const before = readdirSync('/dev/shm');
    const { fds, ranks } = start(
      3,
      `addon.joinRun(run);
       const world = addon.createCommunicator(run);
       for (const count of [0, 1, 1000, 100003]) {
         const data = Float64Array.from({ length: count }, (_, i) => i * (rank + 1));
         world.allReduce(data);
         if (!data.every((x, i) => x === 6 * i)) throw new Error('wrong sum of ' + count);
       }
       const gathered = world.allGather(new Uint8Array([rank, 9]));
       const text = new Uint8Array(rank === 1 ? Buffer.from('hello') : 5);
       world.broadcast(text, 1);
       say([...gathered].join() + ' ' + Buffer.from(text));
       const odd = world.split(rank % 2, -rank);
       say('group of ' + odd.size + ' as ' + odd.rank);
       odd.dispose(); world.dispose();`,
    );
    const control = addon.openRunControl(fds.controlFd, 3);
    expect(await outputs(ranks)).toEqual([
      '0,9,1,9,2,9 hello\ngroup of 2 as 1\n',
      '0,9,1,9,2,9 hello\ngroup of 1 as 0\n',
      '0,9,1,9,2,9 hello\ngroup of 2 as 0\n',
    ]);
    for (const { rank, pid, joined, left } of control.ranks()) {
      expect({ pid, joined, left }).toEqual({
        pid: ranks[rank]!.child.pid,
        joined: true,
        left: true,
      });
    }
    control.dispose();
    expect(readdirSync('/dev/shm')).toEqual(before);
  });

  it('name the rank that was killed', async () => {
    const { ranks } = start(
      2,
      `addon.joinRun(run);
       const world = addon.createCommunicator(run);
       world.barrier();
       say('ready');
       if (rank === 1) setInterval(() => {}, 1000);
       else attempt(() => world.barrier());`,
    );
    await Promise.all(ranks.map((rank) => rank.printed('ready')));
    ranks[1]!.child.kill('SIGKILL');
    expect((await ranks[0]!.ended).output).toContain(
      `COMM_PEER_DIED rank 1 (process ${ranks[1]!.child.pid}) has died`,
    );
  });

  it('name the rank that exited, not as a death', async () => {
    const { ranks } = start(
      2,
      `addon.joinRun(run);
       const world = addon.createCommunicator(run);
       world.barrier();
       if (rank === 1) process.exit(3);
       attempt(() => world.barrier());`,
    );
    expect((await ranks[0]!.ended).output).toContain('COMM_PEER_LEFT rank 1');
    expect((await ranks[1]!.ended).code).toBe(3);
  });

  it('fail together when the launcher aborts the run', async () => {
    const { fds, ranks } = start(
      3,
      `addon.joinRun(run);
       const world = addon.createCommunicator(run);
       world.barrier();
       say('ready');
       if (rank === 2) setTimeout(() => attempt(() => world.barrier()), 300);
       else attempt(() => world.allReduce(new Float32Array(rank ? 4 : 4)));`,
    );
    await Promise.all(ranks.map((rank) => rank.printed('ready')));
    const control = addon.openRunControl(fds.controlFd, 3);
    control.abort(1, 'rank 1 ended with exit code 7');
    control.abort(0, 'a later abort does not replace the first');
    for (const output of await outputs(ranks))
      expect(output).toContain('COMM_ABORTED rank 1 ended with exit code 7');
    control.dispose();
  });

  it('name both ranks and what they called when they differ', async () => {
    const { ranks } = start(
      2,
      `const world = addon.createCommunicator(run);
       attempt(() => rank ? world.broadcast(new Uint8Array(12), 0) : world.allReduce(new Float32Array(3)));`,
    );
    for (const output of await outputs(ranks))
      expect(output).toContain(
        'COMM_MISMATCH ranks called different things: rank 0 allReduce (call 1, 3 x float32), ' +
          'rank 1 broadcast (call 1, 12 bytes, root 0)',
      );
  });

  it('name a rank that is alive and does not come', async () => {
    const { ranks } = start(
      2,
      `const world = addon.createCommunicator({ ...run, hangTimeoutMs: 200 });
       world.barrier();
       if (rank === 0) attempt(() => world.barrier());
       else setTimeout(() => say('awake'), 1500);`,
    );
    expect((await ranks[0]!.ended).output).toContain('COMM_HANG rank 1 has not come');
  });

  it('die with their launcher', async () => {
    // The launcher here is a process between this one and the rank.
    const { fds, ranks } = start(
      1,
      `const { spawn } = require('child_process');
       const source = \`const addon = require(${JSON.stringify(addonFile()).replaceAll('"', "'")});
         addon.joinRun({ rank: 0, worldSize: 1, controlFd: 3, arenaFds: [4], parentPid: \${process.pid} });
         setInterval(() => {}, 1000);\`;
       spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'inherit', 'inherit', 3, 4] });
       setInterval(() => {}, 1000);`,
    );
    const control = addon.openRunControl(fds.controlFd, 1);
    const rank = () => control.ranks()[0]!;
    while (!rank().joined) await new Promise((resolve) => setTimeout(resolve, 20));
    const { pid } = rank();
    ranks[0]!.child.kill('SIGKILL');
    while (isRunning(pid)) await new Promise((resolve) => setTimeout(resolve, 20));
    control.dispose();
  });

  it('refuse to join twice, as an orphan, or with descriptors that are no run', async () => {
    const fds = addon.createRunFds(2);
    const rank = startRank(
      fds,
      0,
      `attempt(() => addon.joinRun({ ...run, parentPid: 1 }));
       attempt(() => addon.joinRun(run));
       attempt(() => addon.createCommunicator({ ...run, arenaFds: [4] }));
       attempt(() => addon.createCommunicator({ ...run, worldSize: 1, arenaFds: [4] }));
       attempt(() => addon.createCommunicator({ ...run, controlFd: 90 }));`,
    );
    opened.push({ fds, ranks: [rank] });
    const lines = (await rank.ended).output.split('\n');
    expect(lines[0]).toMatch(/^LAUNCHER_GONE/);
    expect(lines[1]).toMatch(/^INVALID_STATE .*joined/);
    expect(lines[2]).toMatch(/^INVALID_ARGUMENT 1 arenas for 2 ranks/);
    expect(lines[3]).toMatch(/^COMM_CONTROL_PAGE the run was made for 2 ranks, not 1/);
    expect(lines[4]).toMatch(/^COMM_CONTROL_PAGE file descriptor 90/);
  });
});

describe('ranks that are worker threads', () => {
  it('survive termination and process.exit with communicators open', async () => {
    const fds = addon.createRunFds(1);
    const rank = startRank(
      fds,
      0,
      `const { Worker } = require('worker_threads');
       const source = \`const { workerData, parentPort } = require('worker_threads');
         const addon = require(workerData.file);
         const world = addon.createCommunicator(
           { backend: 'inprocess', key: 'k', rank: workerData.rank, worldSize: 2 });
         const data = new Int32Array([workerData.rank, 10]);
         world.allReduce(data);
         parentPort.postMessage([...data].join());
         setInterval(() => {}, 1000);\`;
       const workers = [0, 1].map((rank) => new Worker(source, {
         eval: true, workerData: { rank, file: ${JSON.stringify(addonFile())} } }));
       Promise.all(workers.map((worker) => new Promise((done) => worker.on('message', done))))
         .then(async (sums) => {
           say(sums.join(' '));
           await workers[0].terminate();
           process.exit(5);
         });`,
    );
    opened.push({ fds, ranks: [rank] });
    expect(await rank.ended).toEqual({ output: '1,20 1,20\n', code: 5, signal: null });
  });
});

describe('one rank alone', () => {
  it('keeps its values and counts its calls', () => {
    const solo = addon.createCommunicator({ backend: 'solo' });
    const data = new Float32Array([1, 2]);
    solo.allReduce(data);
    solo.barrier();
    expect([...data]).toEqual([1, 2]);
    expect([...solo.allGather(new Uint8Array([4, 5]))]).toEqual([4, 5]);
    expect(solo.split(-1, 0)).toBeNull();
    expect(solo.stats().map(({ operation, bytes, calls }) => [operation, bytes, calls])).toEqual([
      ['allGather', 2, 1],
      ['allReduce', 8, 1],
      ['barrier', 0, 1],
    ]);
    solo.dispose();
    expect(() => solo.barrier()).toThrowError(expect.objectContaining({ code: 'DISPOSED' }));
  });
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

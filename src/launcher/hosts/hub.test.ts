/** The hub against ranks that are plain connections. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { RankEnd } from '../rank-process.ts';
import { type Fault, Hub } from './hub.ts';

const hostOf = ['a', 'a', 'b', 'b'];
let hub: Hub;
let sockets: Socket[] = [];
let faults: Fault[] = [];
let ends: RankEnd[] = [];
let changed: () => void = () => {};

/** Both ends of a connection are of this process. */
const openSockets = () =>
  process.getActiveResourcesInfo().filter((resource) => resource === 'TCPSocketWrap').length;

afterEach(() => {
  for (const socket of sockets) socket.destroy();
  hub.close();
  [sockets, faults, ends] = [[], [], []];
});

async function open(linkTimeoutMs = 60_000, startTimeoutMs = 60_000): Promise<number> {
  hub = new Hub({
    hostOf,
    version: '1.0.0',
    linkTimeoutMs,
    startTimeoutMs,
    onFault: (fault) => {
      faults.push(fault);
      changed();
    },
    onEnd: (end) => {
      ends.push(end);
      changed();
    },
  });
  return hub.listen(0);
}

/** A rank that has said hello; `heard` is what it has heard so far. */
async function join(port: number, rank: number, fields: object = {}) {
  const { say, ...joined } = await connected(port, rank, fields);
  say();
  return joined;
}

/** All ranks, which say hello in the same moment. */
async function joinAll(port: number) {
  const ranks = await Promise.all(hostOf.map((_, rank) => connected(port, rank)));
  for (const { say } of ranks) say();
  await until(() => hub.joined.length === hostOf.length);
  return ranks.map(({ socket }) => socket);
}

/** A rank that has yet to say hello. */
async function connected(port: number, rank: number, fields: object = {}) {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8');
  sockets.push(socket);
  const heard = { text: '' };
  socket.on('error', () => {});
  socket.on('data', (text) => {
    heard.text += text;
    changed();
  });
  await once(socket, 'connect');
  const hello = { token: hub.token, rank, pid: 100 + rank, host: hostOf[rank], version: '1.0.0' };
  const say = () => socket.write(`${JSON.stringify({ ...hello, ...fields })}\n`);
  return { socket, heard, say };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition())
    await new Promise<void>((resolve) => {
      changed = resolve;
      setTimeout(resolve, 20);
    });
}

describe('the hub', () => {
  it('hears of a rank that ends well or by its own error, and calls neither a loss', async () => {
    const port = await open();
    const [well, badly] = [await join(port, 0), await join(port, 1)];
    well.socket.end('{"bye":0}\n');
    const error = { code: null, message: 'no data', text: 'Error: no data' };
    badly.socket.end(`${JSON.stringify({ error })}\n{"bye":3}\n`);
    await until(() => ends.length === 2);
    expect(ends.sort((x, y) => x.rank - y.rank)).toMatchObject([
      { rank: 0, pid: 100, exitCode: 0, error: null, lost: null },
      { rank: 1, pid: 101, exitCode: 3, error, lost: null },
    ]);
    expect(faults).toEqual([]);
  });

  it('names a rank that died, or the machine when all of its ranks did', async () => {
    const port = await open();
    const ranks = await joinAll(port);
    ranks[1]!.destroy();
    await until(() => faults.length === 1);
    expect(faults[0]).toEqual({
      kind: 'died',
      ranks: [1],
      lostHosts: [],
      message: 'rank 1 on a (process 101) has died: its connection ended without a word',
    });
    ranks[2]!.destroy();
    ranks[3]!.destroy();
    await until(() => faults.length === 2);
    expect(faults[1]).toMatchObject({
      lostHosts: ['b'],
      message: expect.stringMatching(/^host b \(ranks 2-3\) has died/),
    });
  });

  it('blames the first machine where all have died: its starter ends the rest', async () => {
    const port = await open();
    const [a0, a1, b2, b3] = await joinAll(port);
    // However long it takes here, all fall within the time in which falls are gathered.
    vi.useFakeTimers({ toFake: ['setTimeout'] });
    for (const socket of [b3!, b2!, a0!, a1!]) {
      const before = openSockets();
      socket.destroy();
      while (openSockets() > before - 2) await new Promise(setImmediate);
    }
    vi.runAllTimers();
    vi.useRealTimers();
    await until(() => ends.length === 4);
    expect(faults.map(({ lostHosts }) => lostHosts)).toEqual([['b'], ['a']]);
  });

  it('tells of a rank that died before those who ended because of it', async () => {
    const port = await open();
    const [falls, follows] = [await join(port, 2), await join(port, 0)];
    await until(() => hub.joined.length === 2);
    falls.socket.destroy();
    await once(falls.socket, 'close');
    follows.socket.end('{"bye":1}\n');
    await until(() => ends.length === 2);
    expect(ends.map(({ rank }) => rank)).toEqual([2, 0]);
    expect(faults).toHaveLength(1);
  });

  it('names a machine that falls silent', async () => {
    const port = await open(400);
    const ranks = await joinAll(port);
    const beat = setInterval(() => {
      for (const socket of ranks.slice(0, 2)) socket.write('\n');
    }, 50);
    await until(() => faults.length === 1);
    clearInterval(beat);
    expect(faults[0]).toMatchObject({ kind: 'cut off', ranks: [2, 3], lostHosts: ['b'] });
    expect(ends.map(({ rank }) => rank)).toEqual([2, 3]);
  });

  it('names ranks that do not come, once, and the machine of which none does', async () => {
    const port = await open(60_000, 300);
    await join(port, 0);
    await until(() => faults.length === 1);
    expect(faults[0]).toMatchObject({ kind: 'absent', ranks: [1, 2, 3], lostHosts: ['b'] });
    expect(faults[0]!.message).toBe(
      'rank 1 on a, rank 2 on b, rank 3 on b have not come: the first rank is here for 0 s',
    );
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(faults).toHaveLength(1);
  });

  it('waits for nobody when all have come', async () => {
    const port = await open(60_000, 300);
    await joinAll(port);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(faults).toEqual([]);
  });

  it('tells all ranks the first abort, also those that come later', async () => {
    const port = await open();
    const early = await join(port, 0);
    await until(() => hub.joined.length === 1);
    hub.abort(3, 'rank 3 failed:\n  no data');
    hub.abort(2, 'another');
    const late = await join(port, 1);
    for (const { heard } of [early, late]) {
      await until(() => heard.text.includes('abort'));
      expect(heard.text.trim()).toBe('abort 3 rank 3 failed: no data');
    }
  });

  it('tells the others who has left and why, also those that come later', async () => {
    const port = await open();
    const early = await join(port, 0);
    const leaves = await join(port, 3);
    await until(() => hub.joined.length === 2);
    leaves.socket.write(`${JSON.stringify({ left: 'it called exit\n    at main' })}\n`);
    leaves.socket.end('{"bye":0}\n');
    await until(() => ends.length === 1);
    const late = await join(port, 1);
    for (const { heard } of [early, late]) {
      await until(() => heard.text.includes('left'));
      expect(heard.text.trim()).toBe('left 3 it called exit at main');
    }
  });

  it('says of a rank that ends well without a word that its process has ended, of one that fails nothing', async () => {
    const port = await open();
    const [well, badly, hears] = [await join(port, 0), await join(port, 1), await join(port, 2)];
    await until(() => hub.joined.length === 3);
    badly.socket.end('{"bye":1}\n');
    await until(() => ends.length === 1);
    well.socket.end('{"bye":0}\n');
    await until(() => hears.heard.text.includes('left'));
    expect(hears.heard.text.trim()).toBe('left 0 its process has ended');
  });

  it('names another version, and both processes of a rank that was started twice', async () => {
    const port = await open();
    await join(port, 0);
    await join(port, 1, { version: '0.9.0' });
    await until(() => faults.length === 1);
    expect(faults[0]!.message).toBe(
      'rank 1 on a (process 101) has deepspeed-js 0.9.0, the launcher is deepspeed-js 1.0.0',
    );
    await join(port, 0, { pid: 7, host: 'c' });
    await until(() => faults.length === 2);
    expect(faults[1]!.message).toBe(
      'rank 0 was started twice: as process 100 on a and as process 7 on c',
    );
  });

  it('turns strangers away', async () => {
    const port = await open();
    const { socket } = await join(port, 0, { token: 'guess' });
    await once(socket, 'close');
    expect(hub.joined).toEqual([]);
  });
});

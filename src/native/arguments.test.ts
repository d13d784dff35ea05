/** Integers at the binding: one that does not fit is refused by name, never cut to fit. */
import { afterAll, expect, it } from 'vitest';
import { loadAddon } from './load.ts';

const addon = loadAddon();
const solo = addon.createCommunicator({ backend: 'solo' });
const engine = addon.createEngine({ communicator: solo, threads: 1 });
const { controlFd, arenaFds } = addon.createRunFds(1);
const control = addon.openRunControl(controlFd, 1);
afterAll(() => {
  control.dispose();
  addon.closeFds([controlFd, ...arenaFds]);
  engine.dispose();
  solo.dispose();
});

/** Cut to 32 bits these are 0 or 1, which every call here takes; a fraction would be rounded down. */
const cases: [name: string, call: (wrong: number) => unknown][] = [
  ['color', (n) => solo.split(n, 0)],
  ['key', (n) => solo.split(0, n)],
  ['root', (n) => solo.broadcast(new Uint8Array(1), n)],
  [
    'rank',
    (n) => addon.createCommunicator({ backend: 'inprocess', key: 'r', rank: n, worldSize: 2 }),
  ],
  [
    'worldSize',
    (n) => addon.createCommunicator({ backend: 'inprocess', key: 'w', rank: 0, worldSize: n }),
  ],
  ['threads', (n) => addon.createEngine({ communicator: solo, threads: n })],
  ['session', (n) => engine.releaseSession(n)],
  ['session', (n) => engine.createInstance(n, [], [])],
  ['instance', (n) => engine.releaseInstance(n)],
  ['instance', (n) => engine.run(n)],
  ['worldSize', (n) => addon.createRunFds(n)],
  ['controlFd', (n) => addon.openRunControl(n, 1)],
  ['worldSize', (n) => addon.openRunControl(controlFd, n)],
  ['rank', (n) => control.abort(n, 'for no reason')],
  ['fds', (n) => addon.closeFds([n])],
  ['core', (n) => addon.bindCores([n])],
  ['seed', (n) => addon.crc32c(new Uint8Array(1), n)],
];

it.each(cases)('%s', (name, call) => {
  for (const wrong of [2 ** 32 + 1, 2 ** 53, -(2 ** 40), 0.5, Number.NaN, Number.POSITIVE_INFINITY])
    expect(() => call(wrong)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(`^${name} must be a whole number from -?\\d+ to \\d+$`),
      }),
    );
});

it('a color may be negative and 32 bits wide', () => {
  expect(solo.split(-(2 ** 31), 2 ** 31 - 1)).toBeNull();
});

/** What the binding holds, it lets go: promises, its channel to the JavaScript thread, staging. */
import { createHook } from 'node:async_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { queryObjects, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { loadAddon } from './load.ts';

const addon = loadAddon();
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

it('a wait that is refused leaves no promise behind', () => {
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads: 1 });
  const promises = () => queryObjects(Promise, { format: 'count' });
  const before = promises();
  for (let call = 0; call < 1000; call++) expect(() => engine.wait(7)).toThrow(/never enqueued/);
  expect(promises() - before).toBeLessThan(100);
  engine.dispose();
});

it('an engine that is forgotten gives back its channel to the JavaScript thread', async () => {
  const channels = new Set<number>();
  const hook = createHook({
    init: (id, type) => type === 'deepspeed-js works' && channels.add(id),
    destroy: (id) => channels.delete(id),
  }).enable();
  (() => {
    const communicator = addon.createCommunicator({ backend: 'solo' });
    addon.createEngine({ communicator, threads: 1 });
  })();
  expect(channels.size).toBe(1);
  for (let turn = 0; turn < 200 && channels.size > 0; turn++) {
    collect();
    await sleep(5);
  }
  hook.disable();
  expect(channels.size).toBe(0);
});

it("an engine's account has its staging, by name, until it is disposed", () => {
  const run = { backend: 'inprocess', key: 'staging', rank: 0, worldSize: 1 } as const;
  const communicator = addon.createCommunicator(run);
  const engine = addon.createEngine({ communicator, threads: 1 });
  const small = engine.memory().current.communication;
  expect(small).toBeGreaterThanOrEqual(2 * 32 * 1024);
  // Private memory goes through the large staging.
  const buffer = engine.allocate(1 << 20, { category: 'gradients' });
  engine.waitSync(
    engine.allReduce({ buffer, byteOffset: 0, count: 1 << 18, dtype: 'float32' }, 'sum'),
  );
  expect(engine.memory().current.communication).toBe(small + 3 * 512 * 1024);
  buffer.dispose();
  engine.dispose();
  expect(engine.memory().total).toBe(0);
});

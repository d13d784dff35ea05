/** Machines of which one cannot be found. */
import { expect, it } from 'vitest';
import { HostProbes } from './host-probes.ts';

it('a name that is not known loses its own machine only', async () => {
  const host = (name: string) => ({ name, slots: [0], room: 1 });
  const probes = await HostProbes.open({
    plan: {
      hosts: [host('localhost'), host('no-such-machine.invalid')],
      kind: 'openmpi',
      extra: [],
      masterAddress: null,
      linkTimeoutMs: 30_000,
      variables: {},
    },
    extra: [],
    probeMs: 1000,
  });
  try {
    expect(probes.present()).toEqual([0]);
    expect(probes.lost).toMatchObject([{ member: 1, kind: 'unreachable' }]);
  } finally {
    await probes.close();
  }
});

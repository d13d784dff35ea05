/** Connections of orders that were given up. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, it } from 'vitest';
import { MeetingPoint } from './meeting-point.ts';
import type { Order } from './agent-protocol.ts';
import type { Wire } from './wire.ts';

const token = 'a token';
const order = (port: number, me: number): Order => ({
  id: 1,
  places: [0, 1].map(() => ({ address: '127.0.0.1', port })),
  me,
  plan: { sizes: [4], enoughMs: 1 },
  limitMs: 1000,
});

it('one that is on its way when its order is given up joins no wires', async () => {
  const [one, other] = [new MeetingPoint(token), new MeetingPoint(token)];
  const port = await one.listen();
  const wires: (Wire | null)[] = [null, null];
  const met = other.meet(order(port, 1), wires);
  other.forget(1);
  await expect(met).rejects.toThrow('it was given up');
  expect(wires).toEqual([null, null]);
});

it('one that comes when its order is over is sent away', async () => {
  const point = new MeetingPoint(token);
  const port = await point.listen();
  point.forget(1);
  const late = connect(port, '127.0.0.1');
  late.write(Buffer.concat([Buffer.from(token), Buffer.from(Uint32Array.of(1, 1).buffer)]));
  late.resume();
  await once(late, 'close');
});

/**
 * The program of a check on each machine, started by ssh or srun. It does what its standard input says, one order
 * after the other, and ends with it.
 */
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';
import { packageVersion } from '../package-version.ts';
import {
  type Abandon,
  type AgentHello,
  type Answer,
  BEAT_MS,
  type Greeting,
  type Order,
  parseLine,
} from './agent-protocol.ts';
import { reduceTogether } from './group-reduce.ts';
import { MeetingPoint } from './meeting-point.ts';
import type { Reading } from './probes.ts';
import type { Wire } from './wire.ts';

/** Time for connections, which a system tries for minutes. */
const MEETING_MS = 5000;

let meetingPoint: MeetingPoint | null = null;
let last: Promise<void> = Promise.resolve();
/** Orders that the others have given up, and how the one that is being done is given up. */
const abandoned = new Set<number>();
let giveUp: (() => void) | null = null;

const input = createInterface({ input: process.stdin });
input.on('line', (line) => {
  const said = parseLine<Greeting & Order & Abandon>(line);
  if (said === null) return;
  if (said.abandon !== undefined) {
    abandoned.add(said.abandon);
    giveUp?.();
    return;
  }
  last = last.then(() => (meetingPoint === null ? open(said) : obey(meetingPoint, said)));
});
input.on('close', () => process.exit(0));
process.stdout.on('error', () => process.exit(0));

async function open({ token }: Greeting): Promise<void> {
  const point = new MeetingPoint(token);
  const port = await point.listen();
  meetingPoint = point;
  const hello: AgentHello = {
    hello: { version: packageVersion, host: hostname(), pid: process.pid, port },
  };
  tell(hello);
  setInterval(() => process.stdout.write('\n'), BEAT_MS);
}

async function obey(point: MeetingPoint, order: Order): Promise<void> {
  const { id, me, places, plan, limitMs } = order;
  const wires: (Wire | null)[] = places.map(() => null);
  const work = async (): Promise<Reading[]> => {
    await within(Math.min(limitMs, MEETING_MS), 'no connection', point.meet(order, wires));
    return within(limitMs, 'not done', reduceTogether({ wires, me }, plan));
  };
  const answer: Answer = { id, readings: [], error: null };
  const givenUp = new Promise<never>((_, reject) => {
    giveUp = () => abandoned.has(id) && reject(new Error('the others gave up'));
    giveUp();
  });
  try {
    answer.readings = await Promise.race([givenUp, work()]);
  } catch (error) {
    answer.error = (error as Error).message;
  }
  giveUp = null;
  for (const wire of wires) wire?.destroy();
  point.forget(id);
  tell(answer);
}

/** @throws Error when it takes longer; nobody listens then to what becomes of it. */
async function within<T>(limitMs: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} after ${limitMs / 1000} s`)), limitMs);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

function tell(message: AgentHello | Answer): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

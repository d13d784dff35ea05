/**
 * What ZeRO 3's gathers cost. Two ranks of one thread, width 768.
 * - 128 tokens a micro batch, the comm queue throttled so that what is gathered costs 30% of the compute time where it
 *   is waited for: the share of that which runs beside compute, 1 − (prefetched − compute) / (waited − compute). Compute
 *   is stage 0, which gathers nothing; gathers are waited for with a prefetch bucket of 0. Once `in place`, as ranks of
 *   one machine run: they read each other's shards where these are, so that a gather is what the throttle makes it, and
 *   costs no core. And once `apart`, where every byte is copied as well, by cores that compute; the same not throttled
 *   tells what that costs, for which no link can be made slower.
 * - The same between two machines, which are network namespaces on this one, over a link that is shaped so that what is
 *   sent takes 30% of the compute time one way, and whose TCP takes the cores that compute; with 1,024 tokens a micro
 *   batch, since with 128 that would be a link of 20 Gbit/s.
 * - 2,048 tokens, not throttled: an optimizer step at stage 3 over one at stage 0.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Machines, noNamespaces } from '../integration-tests/namespaces.ts';
import { type Bench, type BenchOptions, measure, Peer, type Report, rankPeer } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';
import type { Gathered } from './ranks/zero3-overlap.ts';

const short: ModelShape = { width: 768, layers: 6, vocabulary: 4096, length: 128, rows: 1 };
const between: ModelShape = { width: 768, layers: 6, vocabulary: 4096, length: 1024, rows: 1 };
const long: ModelShape = { width: 768, layers: 2, vocabulary: 4096, length: 1024, rows: 2 };
/** Elements: a layer of width 768, and its biases. */
const layer = 12 * 768 ** 2 + 16 * 768;
const communicationShare = 0.3;

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  const start = (
    name: string,
    shape: ModelShape,
    stage: number,
    prefetch: number,
    where = 'in place',
  ) => {
    const args = [JSON.stringify(shape), String(stage), String(prefetch), where];
    return rankPeer(name, 'zero3-overlap.ts', { worldSize: 2, args }, options);
  };
  const times = async (
    peers: Awaited<ReturnType<typeof start>>[],
    request: string,
    rounds: number,
    how = '',
  ) => {
    const measured = await measure(
      peers.map((peer) => ({ name: peer.name, run: () => peer.run(request) })),
      { warmup: 1, rounds },
    );
    for (const [name, { median: seconds, spread }] of measured) {
      figures[`${name}${how}: ${request} ms`] = seconds * 1e3;
      figures[`${name}${how}: ${request} spread`] = spread;
    }
    return peers.map(({ name }) => measured.get(name)!.median) as [number, number, number];
  };

  const hidden: Record<string, number> = {};
  for (const where of ['in place', 'apart']) {
    const name = `128 tokens, ${where}`;
    if (!name.includes(options.only)) continue;
    const compute = await start(`${name}, stage 0`, short, 0, 0);
    const ahead = await start(`${name}, gathered ahead`, short, 3, layer, where);
    const waited = await start(`${name}, waited for`, short, 3, 0, where);
    const peers = [compute, ahead, waited];
    const [free, freeAhead, freeWaited] = await times(peers, 'micro', 7, ', not throttled');
    const { bytes, seconds } = JSON.parse(await waited.ask('gathered')) as Gathered;
    // What lies outside the gathers themselves is there at any bandwidth.
    const outside = Math.max(0, freeWaited - free - seconds);
    const wanted = Math.max(seconds, communicationShare * free - outside);
    for (const peer of [ahead, waited]) await peer.ask(`throttle ${Math.round(bytes / wanted)}`);
    const [base, beside, serial] = await times(peers, 'micro', 11);
    await Promise.all(peers.map((peer) => peer.stop()));
    figures[`${name}: gathered bytes a micro batch`] = bytes;
    figures[`${name}, not throttled: gathers, waited for, ms`] = seconds * 1e3;
    figures[`${name}, not throttled: gathers ahead over compute`] = (freeAhead - free) / free;
    figures[`${name}, not throttled: gathers waited for over compute`] = (freeWaited - free) / free;
    figures[`${name}: communication over compute`] = (serial - base) / base;
    figures[`${name}: ms of gathers hidden`] = (serial - beside) * 1e3;
    hidden[where] = 1 - (beside - base) / (serial - base);
  }

  const name = '1024 tokens, between machines';
  if (noNamespaces === null && name.includes(options.only)) {
    const machines = new Machines(2);
    try {
      // One after the other: ranks that wait for a message from another machine look for it now and then.
      const microBatches = async (what: string, stage: number, prefetch: number) => {
        const where = `${name}, ${what}`;
        const peer = await startOn(machines, where, between, stage, prefetch, options);
        const [seconds] = await times([peer], 'micro', 5);
        const before = machines.sent(0);
        await peer.run('micro');
        const bytes = machines.sent(0) - before;
        await peer.stop();
        return { seconds, bytes };
      };
      const { seconds: base } = await microBatches('stage 0', 0, 0);
      const { seconds: unshaped } = await microBatches('waited for, link not shaped', 3, 0);
      const wanted = communicationShare * base;
      const rate = Math.round((8 * gatheredBytes(between)) / wanted / 1e6);
      for (const index of [0, 1]) machines.shape(index, `${rate}mbit`, '1mb');
      const { seconds: serial, bytes } = await microBatches('waited for', 3, 0);
      const { seconds: beside } = await microBatches('gathered ahead', 3, layer);
      figures[`${name}: link, Mbit/s`] = rate;
      figures[`${name}: sent bytes a micro batch and machine`] = bytes;
      figures[`${name}: link not shaped, gathers waited for over compute`] =
        (unshaped - base) / base;
      figures[`${name}: communication over compute`] = (serial - base) / base;
      figures[`${name}: share of gathers hidden`] = 1 - (beside - base) / (serial - base);
    } finally {
      machines.dispose();
    }
  }

  let ratio: number | null = null;
  if ('2048 tokens'.includes(options.only)) {
    const whole = await start('2048 tokens, stage 0', long, 0, 0);
    const gathered = await start('2048 tokens, stage 3', long, 3, layer);
    const [plain, sharded] = await times([whole, gathered], 'step', 5);
    await Promise.all([whole, gathered].map((peer) => peer.stop()));
    ratio = sharded / plain;
  }
  return {
    figures,
    aims: [
      ...['in place', 'apart'].map((where) => ({
        name: `share of gathers hidden, ${where}`,
        value: hidden[where] ?? null,
        op: '>=' as const,
        aim: 0.7,
      })),
      { name: 'stage 3 over stage 0, 2,048 tokens', value: ratio, op: '<=', aim: 1.05 },
    ],
  };
}

/** What a rank sends for the gathers of a micro batch: its half of each layer's weights, before forward and before backward. */
function gatheredBytes({ layers }: ModelShape): number {
  return 2 * layers * layer * 2;
}

/** A rank on each machine, of which the first answers. */
async function startOn(
  machines: Machines,
  name: string,
  shape: ModelShape,
  stage: number,
  prefetch: number,
  { log }: BenchOptions,
): Promise<Peer> {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const loader = join(here, '..', 'node_modules', 'tsx', 'dist', 'loader.mjs');
  const hosts = machines.addresses.map((address) => `${address}:1`).join(',');
  const mpirun = ['mpirun', '--host', hosts, '-n', '2', '--bind-to', 'none'];
  const rank = [process.execPath, '--import', loader, join(here, 'ranks', 'zero3-overlap.ts')];
  const args = [JSON.stringify(shape), String(stage), String(prefetch), 'apart'];
  const variables = Object.entries(machines.environment).map(([key, value]) => `${key}=${value}`);
  const peer = await Peer.start(name, 'env', [...variables, ...mpirun, ...rank, ...args], log);
  if (!peer) throw new Error(`${name} does not run`);
  return peer;
}

export default {
  about: "ZeRO 3: share of gathers that run beside compute, and a step's time over stage 0",
  run,
} satisfies Bench;

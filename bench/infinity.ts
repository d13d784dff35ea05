/**
 * ZeRO-Infinity: a language model of about 256 million parameters in a process that may use 512 MiB (a memory cgroup,
 * of version 1 or 2: a figure says which), everything on the disk of SWAP_FOLDER (default: the working directory's), embedding
 * and head in tiles. Transfers against fio, with the same blocks, depth and file system; a step's time against the bytes that
 * it moves at fio's rates.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { loadAddon, type SwapOptions } from '../src/native/index.ts';
import { type Bench, type BenchOptions, median, type Report, rankPeer, timed } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';
import type { InfinityStep } from './ranks/infinity.ts';

const limit = 512 << 20;
const shape: ModelShape = {
  width: 1024,
  layers: 17,
  vocabulary: 20_480,
  length: 64,
  rows: 1,
  tied: false,
};
const steps = 4;

const aio: SwapOptions = {
  blockSize: 1 << 20,
  queueDepth: 8,
  threads: 1,
  singleSubmit: false,
  overlapEvents: true,
};
const fileBytes = 1 << 30;
const piece = 32 << 20;

/** Bytes a second of fio with one job; null where it is not installed. */
function fio(folder: string, rw: 'read' | 'write'): number | null {
  const run = spawnSync(
    'fio',
    [
      '--name=limit',
      `--filename=${join(folder, 'fio')}`,
      `--rw=${rw}`,
      `--size=${fileBytes}`,
      `--bs=${aio.blockSize}`,
      `--iodepth=${aio.queueDepth}`,
      '--direct=1',
      '--ioengine=io_uring',
      '--fallocate=posix',
      '--loops=2',
      '--output-format=json',
    ],
    { encoding: 'utf8' },
  );
  if (run.status !== 0) return null;
  const { jobs } = JSON.parse(run.stdout) as {
    jobs: { read: { bw_bytes: number }; write: { bw_bytes: number } }[];
  };
  return jobs[0]![rw].bw_bytes;
}

/** As the engine's io queue moves them. */
async function swapping(
  folder: string,
): Promise<{ read: () => Promise<number>; write: () => Promise<number>; stop(): void }> {
  const addon = loadAddon();
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads: 1 });
  const file = addon.createSwapFile(join(folder, 'swap'), fileBytes, aio);
  const buffers = [0, 1].map(() => engine.allocate(piece, { category: 'io' }));
  const all = (move: 'swapIn' | 'swapOut') => async () => {
    const seconds = await timed(() => {
      let last = 0;
      for (let offset = 0; offset < fileBytes; offset += piece) {
        const buffer = buffers[(offset / piece) % 2]!;
        const region = { buffer, byteOffset: 0, count: piece / 4, dtype: 'float32' } as const;
        last = engine[move](file, [{ fileOffset: offset, region }]);
      }
      engine.waitSync(last);
    });
    return fileBytes / seconds;
  };
  return { read: all('swapIn'), write: all('swapOut'), stop: () => engine.dispose() };
}

async function run(options: BenchOptions): Promise<Report> {
  const { log } = options;
  const folder = mkdtempSync(join(resolve(process.env.SWAP_FOLDER ?? '.'), 'infinity-'));
  const figures: Report['figures'] = {};
  try {
    const ours = await swapping(folder);
    await ours.write(); // the first pass makes the file's blocks
    fio(folder, 'write');
    const rates = { read: [] as number[], write: [] as number[] };
    const limits = { read: [] as number[], write: [] as number[] };
    for (let round = 0; round < 2; round += 1) {
      for (const way of ['write', 'read'] as const) {
        rates[way].push(await ours[way]());
        const theirs = fio(folder, way);
        if (theirs !== null) limits[way].push(theirs);
      }
    }
    ours.stop();
    const fioRate = (way: 'read' | 'write') =>
      limits[way].length > 0 ? median(limits[way]) : null;
    const share = (way: 'read' | 'write') => {
      const theirs = fioRate(way);
      figures[`${way} GB/s`] = median(rates[way]) / 1e9;
      figures[`fio ${way} GB/s`] = theirs === null ? null : theirs / 1e9;
      return theirs === null ? null : median(rates[way]) / theirs;
    };
    const shares = [share('read'), share('write')];
    for (const [name, value] of Object.entries(figures)) log(`${name} ${value?.toPrecision(4)}`);

    const args = [JSON.stringify(shape), folder, String(limit)];
    const peer = await rankPeer('infinity', 'infinity.ts', { worldSize: 1, args }, options);
    const taken: InfinityStep[] = [];
    for (let step = 0; step < steps; step += 1) {
      const one = JSON.parse(await peer.ask('step')) as InfinityStep;
      log(JSON.stringify(one));
      taken.push(one);
    }
    await peer.stop();
    const last = taken.at(-1)!;
    const seconds = median(taken.slice(1).map((one) => one.seconds));
    const [read, write] = [fioRate('read'), fioRate('write')];
    const floor =
      read === null || write === null ? null : last.bytesRead / read + last.bytesWritten / write;
    Object.assign(figures, {
      elements: last.elements,
      'tiles of embedding and head': last.tiles,
      'cgroup version': last.cgroup,
      'limit MiB': limit / 2 ** 20,
      'cgroup peak MiB': last.peak === null ? null : last.peak / 2 ** 20,
      'engine peak MiB': last.accounted / 2 ** 20,
      'step s': seconds,
      'step read GB': last.bytesRead / 1e9,
      'step written GB': last.bytesWritten / 1e9,
      'disk-bound step s': floor,
    });
    const known = shares.filter((one) => one !== null);
    return {
      figures,
      aims: [
        {
          name: 'bandwidth over that of fio, the lesser of read and write',
          value: known.length === 2 ? Math.min(...known) : null,
          op: '>=',
          aim: 0.85,
        },
        {
          name: 'step over what its bytes take at the rates of fio',
          value: floor === null ? null : seconds / floor,
          op: '<=',
          aim: 1.2,
        },
      ],
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export default {
  about:
    'everything on disk: a 256M model in 512 MiB, transfers against fio, step against the disk',
  run,
} satisfies Bench;

/**
 * Checkpoints, one rank, all cores.
 * - `disk`: bytes a second of a save that is waited for and of a load, beside dd writing and reading as many bytes in the
 *   same folder (with fsync, as a save does; past the page cache, in 4 MiB, as our writes).
 * - `stall`: what a save in the background adds to two steps, each of which takes at least as long, over the time of the save:
 *   the median over rounds of two steps without one, two with one, two with one, two without, so that a machine that grows
 *   slower or faster at an even pace adds nothing. Beside it what the loop did or waited for because of the save alone.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Bench,
  type BenchOptions,
  measure,
  median,
  medianInterval,
  type Peer,
  type Report,
  rankPeer,
  timed,
} from './lib.ts';
import type { Spent } from './ranks/checkpoint.ts';
import type { ModelShape } from './ranks/model.ts';

/** 30 million parameters: 360 MB of weights and states. */
const shape: ModelShape = { width: 768, layers: 4, vocabulary: 2048, length: 512, rows: 2 };
const stallRounds = 12;

async function run(options: BenchOptions): Promise<Report> {
  const build = fileURLToPath(new URL('../build', import.meta.url));
  mkdirSync(build, { recursive: true });
  const folder = mkdtempSync(join(build, 'checkpoint-'));
  try {
    const args = [JSON.stringify(shape), folder];
    const peer = await rankPeer('rank', 'checkpoint.ts', { worldSize: 1, args }, options);
    await peer.ask('save');
    const bytes = Number(await peer.ask('bytes'));
    const figures: Report['figures'] = { 'checkpoint MB': bytes / 1e6 };
    if ('disk'.includes(options.only)) {
      Object.assign(figures, await diskFigures(peer, bytes, join(folder, 'dd')));
    }
    let stall = null;
    if ('stall'.includes(options.only)) {
      const stalled = await stallFigures(peer);
      Object.assign(figures, stalled);
      stall = stalled['stall over the save'];
    }
    await peer.stop();
    return {
      figures,
      aims: [
        {
          name: 'stall under a save in the background, over the save',
          value: stall,
          op: '<=',
          aim: 0.05,
        },
      ],
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function diskFigures(peer: Peer, bytes: number, file: string): Promise<Report['figures']> {
  const blocks = Math.round(bytes / 2 ** 22);
  const dd = (...words: string[]) =>
    timed(() => {
      const { status, stderr } = spawnSync('dd', words, { encoding: 'utf8' });
      if (status !== 0) throw new Error(stderr);
    });
  const write = ['if=/dev/zero', `of=${file}`, 'bs=4M', `count=${blocks}`];
  const times = await measure(
    [
      { name: 'save', run: () => peer.run('save') },
      { name: 'dd write', run: () => dd(...write, 'oflag=direct', 'conv=fsync') },
      { name: 'load', run: () => peer.run('load') },
      { name: 'dd read', run: () => dd(`if=${file}`, 'of=/dev/null', 'bs=4M', 'iflag=direct') },
    ],
    { warmup: 1, rounds: 15 },
  );
  const figures: Report['figures'] = {};
  for (const [name, { median: seconds, spread }] of times) {
    figures[`${name} ms`] = seconds * 1e3;
    figures[`${name} spread`] = spread;
    figures[`${name} GB/s`] = bytes / 1e9 / seconds;
  }
  return figures;
}

async function stallFigures(peer: Peer) {
  const saves: number[] = [];
  const plain: number[] = [];
  const stalls: number[] = [];
  const spent: Spent[] = [];
  const steps = async () => {
    const seconds = await peer.run('steps');
    plain.push(seconds);
    return seconds;
  };
  const beside = async () => {
    const seconds = await peer.run('beside');
    spent.push(JSON.parse(await peer.ask('spent')) as Spent);
    return seconds;
  };
  await steps();
  await beside();
  plain.length = spent.length = 0;
  for (let round = 0; round < stallRounds; round += 1) {
    saves.push(await peer.run('save'));
    const before = await steps();
    const withSaves = (await beside()) + (await beside());
    stalls.push((withSaves - before - (await steps())) / 2);
  }
  const save = median(saves);
  const [low, high] = medianInterval(stalls)!;
  return {
    'save beside which the stall is measured, ms': save * 1e3,
    'two steps ms': median(plain) * 1e3,
    'two steps, slowest less fastest ms': (Math.max(...plain) - Math.min(...plain)) * 1e3,
    'step over save': median(plain) / 2 / save,
    'stall ms': median(stalls) * 1e3,
    'stall over the save': median(stalls) / save,
    'stall over the save, 95% of medians from': low / save,
    'stall over the save, 95% of medians to': high / save,
    'loop in calls for the save ms': median(spent.map(({ calls }) => calls)) * 1e3,
    'updates waiting for the save ms': median(spent.map(({ waits }) => waits)) * 1e3,
  };
}

export default {
  about: 'checkpoints: save and load against the disk, what one in the background adds to a step',
  run,
} satisfies Bench;

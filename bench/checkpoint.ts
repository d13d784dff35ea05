/**
 * Checkpoints against the disk: bytes a second of a save that is waited for and of a load, beside dd writing and
 * reading as many bytes in the same folder (with fsync, as a save does; past the page cache, in 4 MiB, as our writes); and
 * what a save in the background adds to three steps, each of which takes at least as long, over the time of the save. One
 * rank, all cores.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Bench, type BenchOptions, measure, type Report, rankPeer, timed } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';

/** 30 million parameters: 360 MB of weights and states. */
const shape: ModelShape = { width: 768, layers: 4, vocabulary: 2048, length: 512, rows: 2 };

async function run(options: BenchOptions): Promise<Report> {
  const build = fileURLToPath(new URL('../build', import.meta.url));
  mkdirSync(build, { recursive: true });
  const folder = mkdtempSync(join(build, 'checkpoint-'));
  try {
    const args = [JSON.stringify(shape), folder];
    const peer = await rankPeer('rank', 'checkpoint.ts', { worldSize: 1, args }, options);
    await peer.ask('save');
    const bytes = Number(await peer.ask('bytes'));
    const blocks = Math.round(bytes / 2 ** 22);
    const file = join(folder, 'dd');
    const dd = (...words: string[]) =>
      timed(() => {
        const { status, stderr } = spawnSync('dd', words, { encoding: 'utf8' });
        if (status !== 0) throw new Error(stderr);
      });
    const times = await measure(
      [
        { name: 'save', run: () => peer.run('save') },
        {
          name: 'dd write',
          run: () =>
            dd(
              'if=/dev/zero',
              `of=${file}`,
              'bs=4M',
              `count=${blocks}`,
              'oflag=direct',
              'conv=fsync',
            ),
        },
        { name: 'load', run: () => peer.run('load') },
        { name: 'dd read', run: () => dd(`if=${file}`, 'of=/dev/null', 'bs=4M', 'iflag=direct') },
        { name: 'three steps', run: () => peer.run('steps') },
        { name: 'three steps beside a save', run: () => peer.run('beside') },
      ],
      { warmup: 1, rounds: 9 },
    );
    await peer.stop();
    const seconds = (name: string) => times.get(name)!.median;
    const figures: Report['figures'] = { 'checkpoint MB': bytes / 1e6 };
    for (const [name, { median, spread }] of times) {
      figures[`${name} ms`] = median * 1e3;
      figures[`${name} spread`] = spread;
    }
    for (const name of ['save', 'dd write', 'load', 'dd read']) {
      figures[`${name} GB/s`] = bytes / 1e9 / seconds(name);
    }
    figures['step over save'] = seconds('three steps') / 3 / seconds('save');
    const stall = (seconds('three steps beside a save') - seconds('three steps')) / seconds('save');
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

export default {
  about: 'checkpoints: save and load against the disk, what one in the background adds to a step',
  run,
} satisfies Bench;

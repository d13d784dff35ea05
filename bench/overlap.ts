/**
 * How much of the gradients' reduction hides behind backward: width 768, 128 tokens a micro batch, two
 * ranks of one thread, ZeRO 1, the comm queue throttled so that it needs 30% of the compute time.
 * hidden = 1 − (overlapped − compute) / (serial − compute).
 */
import { type Bench, type BenchOptions, measure, median, type Report, rankPeer } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';

const shape: ModelShape = { width: 768, layers: 12, vocabulary: 4096, length: 128, rows: 1 };
const communicationShare = 0.3;

async function run(options: BenchOptions): Promise<Report> {
  const start = (mode: string) =>
    rankPeer(mode, 'overlap.ts', { worldSize: 2, args: [JSON.stringify(shape), mode] }, options);
  const overlapped = await start('overlap');
  const serial = await start('serial');

  const alone: number[] = [];
  for (let round = 0; round < 5; round += 1) alone.push(await serial.run('compute'));
  const bytes = Number(await serial.ask('gradient'));
  const bandwidth = Math.round(bytes / (communicationShare * median(alone)));
  for (const peer of [overlapped, serial]) await peer.ask(`throttle ${bandwidth}`);

  const times = await measure(
    [
      { name: 'compute', run: () => overlapped.run('compute') },
      { name: 'overlapped', run: () => overlapped.run('reduce') },
      { name: 'serial', run: () => serial.run('reduce') },
    ],
    { warmup: 2, rounds: 15 },
  );
  await Promise.all([overlapped.stop(), serial.stop()]);

  const seconds = (name: string) => times.get(name)!.median;
  const [compute, exposed] = [seconds('compute'), seconds('overlapped') - seconds('compute')];
  const communication = seconds('serial') - compute;
  const figures: Report['figures'] = { 'gradient bytes': bytes, 'bytes a second': bandwidth };
  for (const [name, time] of times) {
    figures[`${name} ms`] = time.median * 1e3;
    figures[`${name} spread`] = time.spread;
  }
  figures['communication over compute'] = communication / compute;
  return {
    figures,
    aims: [{ name: 'share hidden', value: 1 - exposed / communication, op: '>=', aim: 0.7 }],
  };
}

export default {
  about: 'share of the gradient reduction that hides behind backward',
  run,
} satisfies Bench;

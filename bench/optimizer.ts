/**
 * Fused AdamW: GB/s of its 28 bytes a weight (reads weight, gradient and two states, writes all but the
 * gradient), against a kernel with the same traffic, PyTorch's fused AdamW and DeepSpeedCPUAdam, all on
 * two threads. The arrays are far larger than the caches.
 */
import { loadAddon, type Region } from '../src/native/index.ts';
import {
  type Bench,
  type BenchOptions,
  limitPeer,
  measure,
  type Peer,
  pythonPeer,
  type Report,
  type Subject,
  timed,
} from './lib.ts';

const elements = 64 << 20;
const threads = 2;
const bytesPerElement = 28;

/** The engine's own step over four flat buffers. */
function engineSubject(): Subject & { stop(): void } {
  const addon = loadAddon();
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads });
  const array = (value: number): Region => {
    const buffer = engine.allocate(4 * elements, { category: 'optimizer' });
    const region: Region = { buffer, byteOffset: 0, count: elements, dtype: 'float32' };
    engine.waitSync(engine.fill(region, value));
    return region;
  };
  const [master, gradient, state1, state2] = [array(1e-3), array(1e-3), array(0), array(0)];
  let step = 0;
  const run = () =>
    timed(() =>
      engine.waitSync(
        engine.optimizerStep({
          kind: 'adamw',
          step: ++step,
          master,
          gradient,
          state1,
          state2,
          ranges: [{ offset: 0, count: elements, group: 0 }],
          groups: [
            {
              lr: 1e-4,
              beta1: 0.9,
              beta2: 0.999,
              eps: 1e-8,
              weightDecay: 0.1,
              biasCorrection: true,
            },
          ],
          gradientScale: 1,
          maxNorm: 0,
        }),
      ),
    );
  return { name: 'deepspeed-js', run, stop: () => engine.dispose() };
}

async function run(options: BenchOptions): Promise<Report> {
  const sizes = [String(elements), String(threads)];
  const ours = engineSubject();
  const limit = await limitPeer('limit', 'optimizer.cc', sizes, options);
  const peers = (
    await Promise.all([
      pythonPeer('torch', 'optimizer.py', ['torch', ...sizes], options),
      pythonPeer('deepspeed', 'optimizer.py', ['deepspeed', ...sizes], options),
    ])
  ).filter((peer): peer is Peer => peer !== null);

  const times = await measure([ours, limit, ...peers]);
  ours.stop();
  await Promise.all([limit, ...peers].map((peer) => peer.stop()));

  const figures: Report['figures'] = { elements, threads };
  const rate = (name: string): number | null => {
    const time = times.get(name);
    return time ? (bytesPerElement * elements) / time.median / 1e9 : null;
  };
  for (const name of ['deepspeed-js', 'limit', 'torch', 'deepspeed']) {
    figures[`${name} GB/s`] = rate(name);
    figures[`${name} spread`] = times.get(name)?.spread ?? null;
  }
  const own = rate('deepspeed-js')!;
  const fastest = Math.max(...peers.map(({ name }) => rate(name)!));
  return {
    figures,
    aims: [
      { name: 'share of the limit', value: own / rate('limit')!, op: '>=', aim: 0.9 },
      {
        name: 'times the faster of torch and deepspeed',
        value: peers.length === 2 ? own / fastest : null,
        op: '>=',
        aim: 1.2,
      },
    ],
  };
}

export default {
  about: 'fused AdamW: GB/s against the same memory traffic, PyTorch and DeepSpeed',
  run,
} satisfies Bench;

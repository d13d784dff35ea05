/** One rank of the two-rank test in engine.test.ts: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import type { OptimizerHyper, Region } from './contract.ts';
import { loadAddon } from './load.ts';

const { key, rank, shards, gradient, weights, group } = workerData as {
  key: string;
  rank: number;
  shards: { offset: number; count: number }[];
  gradient: number[];
  weights: number[];
  group: OptimizerHyper;
};

const addon = loadAddon();
const communicator = addon.createCommunicator({ backend: 'inprocess', key, rank, worldSize: 2 });
const engine = addon.createEngine({ communicator, threads: 1 });

function region(values: ArrayLike<number>, category: 'gradients' | 'master'): Region {
  const buffer = engine.allocate(values.length * 4, { category, shared: true });
  new Float32Array(buffer.view()).set(values);
  return { buffer, byteOffset: 0, count: values.length, dtype: 'float32' };
}
const part = (whole: Region, { offset, count }: { offset: number; count: number }): Region => ({
  ...whole,
  byteOffset: whole.byteOffset + offset * 4,
  count,
});

const own = shards[rank]!;
const bucket = region(gradient, 'gradients');
const parameters = region(weights, 'master');
const target = region(new Float32Array(own.count), 'gradients');
const norm = { buffer: engine.allocate(16, { category: 'optimizer' }), byteOffset: 0 };

const reduced = engine.reduceScatter(bucket, shards, target);
const measured = engine.squaredNorm([target], norm, [reduced]);
const summed = engine.allReduce({ ...norm, count: 2, dtype: 'float64' }, 'sum', [measured]);
const stepped = engine.optimizerStep(
  {
    kind: 'adamw',
    step: 1,
    master: part(parameters, own),
    gradient: target,
    state1: region(new Float32Array(own.count), 'master'),
    state2: region(new Float32Array(own.count), 'master'),
    ranges: [{ offset: 0, count: own.count, group: 0 }],
    groups: [group],
    gradientScale: 0.5,
    maxNorm: 0,
    norm,
  },
  [summed],
);
await engine.wait(engine.allGather(parameters, shards, [stepped]));
parentPort?.postMessage(Array.from(new Float32Array(parameters.buffer.view())));
engine.dispose();
communicator.dispose();

/** One rank of compress.test.ts: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import type { NativeBuffer, Region } from './contract.ts';
import { loadAddon } from './load.ts';

export interface CompressTask {
  key: string;
  rank: number;
  worldSize: number;
  tensors: number[];
  /** One vector a round. */
  xs: Float32Array[];
}

export interface CompressResult {
  results: Float32Array[];
  worker: Float32Array;
  served: number;
  error?: string;
}

const { key, rank, worldSize, tensors, xs } = workerData as CompressTask;
const addon = loadAddon();
const communicator = addon.createCommunicator({ backend: 'inprocess', key, rank, worldSize });
const engine = addon.createEngine({ communicator, threads: 1 });

function region(count: number): Region {
  const buffer = engine.allocate(Math.max(count, 1) * 4, { category: 'optimizer' });
  return { buffer, byteOffset: 0, count, dtype: 'float32' };
}
const floats = (buffer: NativeBuffer, count: number) => new Float32Array(buffer.view(), 0, count);

const count = tensors.reduce((sum, length) => sum + length, 0);
const { id, served } = engine.createCompressor(tensors);
const [x, worker] = [region(count), region(count)];
const server = served === 0 ? null : region(served);
const result: CompressResult = { results: [], worker: new Float32Array(), served };
try {
  for (const values of xs) {
    floats(x.buffer, count).set(values);
    await engine.wait(engine.compressedAllReduce(id, x, worker, server));
    result.results.push(floats(x.buffer, count).slice());
  }
  result.worker = floats(worker.buffer, count).slice();
} catch (thrown) {
  const { code, message } = thrown as { code: string; message: string };
  result.error = `${code} ${message}`;
}
parentPort!.postMessage(result);
engine.dispose();
communicator.dispose();

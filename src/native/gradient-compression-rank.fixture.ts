/** One rank of gradient-compression.test.ts: a worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import type { CompressedTensor, GradientCompression, Region } from './contract.ts';
import { loadAddon } from './load.ts';

export interface GradientTask {
  key: string;
  rank: number;
  worldSize: number;
  compression: GradientCompression;
  tensors: CompressedTensor[];
  /** One gradient a round. */
  xs: Float32Array[];
}

export interface GradientResult {
  results: Float32Array[];
  error: Float32Array;
  factors: Float32Array;
  /** Refused calls: code and message. */
  refused: string[];
}

const { key, rank, worldSize, compression, tensors, xs } = workerData as GradientTask;
const addon = loadAddon();
const communicator = addon.createCommunicator({ backend: 'inprocess', key, rank, worldSize });
const engine = addon.createEngine({ communicator, threads: 1 });

function vector(count: number) {
  const buffer = engine.allocate(Math.max(count, 1) * 4, { category: 'optimizer' });
  const region: Region = { buffer, byteOffset: 0, count, dtype: 'float32' };
  return { region, array: new Float32Array(buffer.view(), 0, count) };
}

const { id, factors: factorCount } = engine.createGradientCompressor(compression, tensors);
const { length } = xs[0]!;
const [x, error, factors] = [vector(length), vector(length), vector(factorCount)];
const given = factorCount === 0 ? null : factors.region;
const results: Float32Array[] = [];
for (const values of xs) {
  x.array.set(values);
  await engine.wait(engine.compressedSum(id, x.region, error.region, given));
  results.push(x.array.slice());
}
const refused = [
  () => engine.createGradientCompressor(compression, []),
  () => engine.createGradientCompressor(compression, [{ offset: 0, rows: 4, columns: 0 }]),
  () => engine.compressedSum(id, { ...x.region, dtype: 'bfloat16' }, error.region, given),
  () => engine.compressedSum(id, { ...x.region, count: 3 }, { ...error.region, count: 3 }, given),
  () => engine.compressedSum(id, x.region, { ...error.region, count: 3 }, given),
].map((call) => {
  try {
    call();
  } catch (thrown) {
    const { code, message } = thrown as { code: string; message: string };
    return `${code} ${message}`;
  }
  return 'taken';
});
const result: GradientResult = {
  results,
  error: error.array.slice(),
  factors: factors.array.slice(),
  refused,
};
parentPort!.postMessage(result);
engine.dispose();
communicator.dispose();

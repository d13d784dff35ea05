/**
 * infinity.ts SHAPE FOLDER LIMIT: trains with everything on disk in a memory cgroup of LIMIT bytes, and answers every
 * request with one step (JSON).
 */
import 'onnxruntime-node';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { loadAddon } from '../../src/native/index.ts';
import { trainStep } from '../../src/trainer/step.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

export interface InfinityStep {
  elements: number;
  seconds: number;
  bytesRead: number;
  bytesWritten: number;
  /** Of the engine's account, and of the cgroup: null where there is none. */
  accounted: number;
  peak: number | null;
  loss: number;
}

const cgroup = `/sys/fs/cgroup/memory/deepspeed-js-${process.pid}`;

/** Version 1; false where this process may make no cgroup. */
function limitMemory(bytes: string): boolean {
  try {
    mkdirSync(cgroup);
    writeFileSync(`${cgroup}/memory.limit_in_bytes`, bytes);
    writeFileSync(`${cgroup}/cgroup.procs`, String(process.pid));
    return true;
  } catch {
    return false;
  }
}

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const nvme = { device: 'nvme', nvme_path: process.argv[3]! };
const limited = limitMemory(process.argv[4]!);
const addon = loadAddon();
const { createSwapFile } = addon;
const files: ReturnType<typeof createSwapFile>[] = [];
addon.createSwapFile = (...args) => {
  const file = createSwapFile(...args);
  files.push(file);
  return file;
};
const layer = 12 * shape.width ** 2;
const training = await setUpModel(shape, {
  strategy: 'deepspeed',
  deepspeed: {
    train_micro_batch_size_per_gpu: shape.rows,
    zero_optimization: {
      stage: 3,
      reduce_bucket_size: layer / 3,
      stage3_prefetch_bucket_size: layer,
      stage3_param_persistence_threshold: 10 * shape.width,
      stage3_max_reuse_distance: 1,
      sub_group_size: 2 << 20,
      offload_optimizer: { ...nvme, buffer_count: 8, pipeline_read: true, pipeline_write: true },
      offload_param: { ...nvme, max_in_cpu: 0 },
    },
  },
});
const batches = globalBatches(training);
const moved = () => files.map((file) => file.stats());
const sum = (key: 'bytesRead' | 'bytesWritten') =>
  moved().reduce((total, stats) => total + stats[key], 0);
let step = 0;
await serve(training.runtime.communicator, async () => {
  const before = [sum('bytesRead'), sum('bytesWritten')] as const;
  const start = performance.now();
  const { value } = await batches.next();
  const { loss } = await trainStep(training, step, value!);
  step += 1;
  return JSON.stringify({
    elements: training.session.layout.parameterCount,
    seconds: (performance.now() - start) / 1000,
    bytesRead: sum('bytesRead') - before[0],
    bytesWritten: sum('bytesWritten') - before[1],
    accounted: training.runtime.engine.memory().peakTotal,
    peak: limited ? Number(readFileSync(`${cgroup}/memory.max_usage_in_bytes`, 'utf8')) : null,
    loss,
  } satisfies InfinityStep);
});
training.runtime.close();

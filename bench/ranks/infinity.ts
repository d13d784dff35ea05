/**
 * infinity.ts SHAPE FOLDER LIMIT: one rank that enters a memory cgroup of LIMIT bytes before it makes the model, with all
 * of it on the disk of FOLDER. `step` is answered with what an optimizer step took (JSON).
 */
import 'onnxruntime-node';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadAddon, type SwapFile } from '../../src/native/index.ts';
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

export interface InfinityStep {
  seconds: number;
  bytesRead: number;
  bytesWritten: number;
  elements: number;
  tiles: number;
  /** Version of the cgroup; null where none could be entered, and there is no limit. */
  cgroup: 1 | 2 | null;
  /** Bytes, the most so far: as the cgroup counts them, and the engine. */
  peak: number | null;
  accounted: number;
}

interface Cgroup {
  version: 1 | 2;
  peak(): number | null;
}

/** Moves this process into a new cgroup; null where the system or its rights do not allow it. */
function enterCgroup(limit: number): Cgroup | null {
  const name = `deepspeed-js-bench-${process.pid}`;
  const ways = [
    { version: 1, root: '/sys/fs/cgroup/memory', max: 'memory.limit_in_bytes' },
    { version: 2, root: '/sys/fs/cgroup', max: 'memory.max' },
  ] as const;
  for (const { version, root, max } of ways) {
    const peakFile = version === 1 ? 'memory.max_usage_in_bytes' : 'memory.peak';
    const folder = join(root, name);
    try {
      if (!existsSync(join(root, 'cgroup.procs'))) continue;
      mkdirSync(folder);
      writeFileSync(join(folder, max), String(limit));
      writeFileSync(join(folder, 'cgroup.procs'), String(process.pid));
    } catch {
      continue;
    }
    const peak = () => {
      const path = join(folder, peakFile);
      return existsSync(path) ? Number(readFileSync(path, 'utf8')) : null;
    };
    return { version, peak };
  }
  return null;
}

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const folder = process.argv[3]!;
const cgroup = enterCgroup(Number(process.argv[4]));

const files: SwapFile[] = [];
const addon = loadAddon();
const { createSwapFile } = addon;
addon.createSwapFile = (...given) => {
  const file = createSwapFile(...given);
  files.push(file);
  return file;
};
const moved = (way: 'bytesRead' | 'bytesWritten') =>
  files.reduce((sum, file) => sum + file.stats()[way], 0);

/** A layer's parameters. */
const layer = 12 * shape.width ** 2 + 13 * shape.width;
const nvme = { device: 'nvme', nvme_path: folder };
const training = await setUpModel(shape, {
  strategy: 'deepspeed',
  deepspeed: {
    train_micro_batch_size_per_gpu: shape.rows,
    zero_optimization: {
      stage: 3,
      reduce_bucket_size: 4 << 20,
      sub_group_size: 2 << 20,
      // A layer, and half of the next while it is used.
      stage3_max_live_parameters: Math.round(1.5 * layer),
      stage3_prefetch_bucket_size: layer / 2,
      stage3_param_persistence_threshold: 10 * shape.width,
      stage3_max_reuse_distance: 1,
      offload_optimizer: { ...nvme, buffer_count: 8, pipeline_read: true, pipeline_write: true },
      offload_param: { ...nvme, max_in_cpu: 0 },
    },
    aio: { block_size: 1 << 20, queue_depth: 8 },
  },
});
const { engine, communicator } = training.runtime;
const { value: parts } = await globalBatches(training).next();
let step = 0;
await serve(communicator, async () => {
  const [read, written] = [moved('bytesRead'), moved('bytesWritten')];
  const seconds = await timed(() => trainStep(training, step, parts!));
  step += 1;
  const { layout } = training.session;
  return JSON.stringify({
    seconds,
    bytesRead: moved('bytesRead') - read,
    bytesWritten: moved('bytesWritten') - written,
    elements: layout.parameterCount,
    tiles: layout.slots.filter(({ part }) => part).length,
    cgroup: cgroup?.version ?? null,
    peak: cgroup?.peak() ?? null,
    accounted: engine.memory().peakTotal,
  } satisfies InfinityStep);
});
training.runtime.close();

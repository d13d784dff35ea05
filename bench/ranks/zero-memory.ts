/**
 * zero-memory.ts SHAPE STAGE BUCKET: takes three training steps, then answers `run` with the seconds of another, and
 * any other request with what they took (JSON): rank 0's account by category, the model's elements, and over all ranks the sum of the accounts and the growth
 * of resident memory since everything was imported.
 */
import 'onnxruntime-node';
import { readFileSync } from 'node:fs';
import { loadAddon, type MemoryAccount } from '../../src/native/index.ts';
import { gatherJson } from '../../src/strategies/agree.ts';
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

export interface MemoryReport {
  elements: number;
  account: MemoryAccount;
  /** Bytes, summed over ranks. */
  accounted: number;
  resident: number;
}

/** A page that several processes map counts in parts, so that a sum over ranks counts it once. */
function residentBytes(): number {
  const line = /^Pss:\s+(\d+) kB/m.exec(readFileSync('/proc/self/smaps_rollup', 'utf8'));
  if (!line) throw new Error('the system does not tell proportional resident memory');
  return Number(line[1]) * 1024;
}

loadAddon();
const baseline = residentBytes();
const shape = JSON.parse(process.argv[2]!) as ModelShape;
const training = await setUpModel(shape, {
  strategy: 'deepspeed',
  deepspeed: {
    train_micro_batch_size_per_gpu: shape.rows,
    zero_optimization: {
      stage: Number(process.argv[3]),
      reduce_bucket_size: Number(process.argv[4]),
      stage3_prefetch_bucket_size: Number(process.argv[4]),
      stage3_param_persistence_threshold: 10 * shape.width,
      stage3_max_reuse_distance: 1,
    },
  },
});
const { engine, communicator } = training.runtime;
const batches = globalBatches(training);
let step = 0;
async function train(): Promise<void> {
  const { value } = await batches.next();
  await trainStep(training, step, value!);
  step += 1;
}
for (let warmup = 0; warmup < 3; warmup += 1) await train();
await serve(communicator, async (request) => {
  if (request === 'run') {
    communicator.barrier();
    return String(await timed(train));
  }
  const account = engine.memory();
  const all = await gatherJson(training.runtime, {
    accounted: account.total,
    resident: residentBytes() - baseline,
  });
  const sum = (key: 'accounted' | 'resident') => all.reduce((total, rank) => total + rank[key], 0);
  return JSON.stringify({
    elements: training.session.layout.parameterCount,
    account,
    accounted: sum('accounted'),
    resident: sum('resident'),
  } satisfies MemoryReport);
});
training.runtime.close();

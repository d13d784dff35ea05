/**
 * zero3-overlap.ts SHAPE STAGE PREFETCH WHERE: WHERE is `in place`, or `apart` for ranks that read nothing where a peer
 * has it, as between machines. `micro` is answered with the seconds of a micro batch whose gradients stay
 * where they are, so that gathers are all that travels; `step` with those of a whole optimizer step; `gathered` with
 * what a micro batch gathers; `throttle N` lets the comm queue move N bytes a second.
 */
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const training = await setUpModel(
  shape,
  {
    strategy: 'deepspeed',
    deepspeed: {
      train_micro_batch_size_per_gpu: shape.rows,
      // The first of two micro batches sends nothing where gradients are reduced at the boundary.
      gradient_accumulation_steps: 2,
      zero_optimization: {
        stage: Number(process.argv[3]),
        reduce_at_boundary: true,
        reduce_bucket_size: 2_500_000,
        stage3_prefetch_bucket_size: Number(process.argv[4]),
        stage3_param_persistence_threshold: 10 * shape.width,
        stage3_max_reuse_distance: 1,
      },
    },
  },
  { apart: process.argv[5] === 'apart', threads: 1 },
);
const { host, session, gradients, runtime } = training;
const { engine, communicator } = runtime;
const batches = globalBatches(training);
const { value: parts } = await batches.next();
const batch = training.collate(parts![0]!, shape.rows);
const scale = gradients.lossScale / (2 * batch.targets * communicator.size);

async function microBatch(): Promise<void> {
  const plan = session.lifecycle.fire('planStep', {
    training: true,
    step: 0,
    microBatch: 0,
    microBatches: 2,
  });
  await host.trainMicroBatch(plan, batch, scale, 0);
  await engine.idle();
}

/** Bytes, and seconds inside the operation, but for those in which another rank was waited for. */
export interface Gathered {
  bytes: number;
  seconds: number;
}

function gathered(): Gathered {
  const gathers = engine
    .commStats()
    .filter(({ operation }) => operation === 'allGather' || operation === 'allGatherJoint');
  return {
    bytes: gathers.reduce((sum, { bytes, calls }) => sum + bytes * calls, 0),
    seconds: gathers.reduce((sum, { totalNs, waitNs }) => sum + (totalNs - waitNs) / 1e9, 0),
  };
}

await serve(communicator, async (request) => {
  const [verb, value] = request.split(' ');
  if (verb === 'throttle') {
    engine.throttleComm(Number(value));
    return 'done';
  }
  if (verb === 'gathered') {
    const before = gathered();
    await microBatch();
    const { bytes, seconds } = gathered();
    return JSON.stringify({ bytes: bytes - before.bytes, seconds: seconds - before.seconds });
  }
  communicator.barrier();
  if (verb === 'micro') return String(await timed(microBatch));
  // One micro batch of the shape's tokens, at the accumulation boundary.
  return String(await timed(() => trainStep(training, 0, [parts![0]!])));
});
runtime.close();

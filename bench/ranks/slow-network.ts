/**
 * slow-network.ts SHAPE MICROBATCHES CONFIG: a rank of one thread that trains by a DeepSpeed config; answers a number
 * with the seconds of so many optimizer steps. Without MPI it is the only rank.
 */
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const [shape, microBatches, config] = process.argv.slice(2).map((word) => JSON.parse(word)) as [
  ModelShape,
  number,
  Record<string, unknown>,
];
const training = await setUpModel(
  shape,
  {
    strategy: 'deepspeed',
    deepspeed: {
      train_micro_batch_size_per_gpu: shape.rows,
      gradient_accumulation_steps: microBatches,
      ...config,
    },
  },
  { threads: 1 },
);
const { communicator } = training.runtime;
const batches = globalBatches(training);
let step = 0;
await serve(communicator, async (request) => {
  communicator.barrier();
  const seconds = await timed(async () => {
    for (const end = step + Number(request); step < end; step += 1) {
      const { value } = await batches.next();
      await trainStep(training, step, value!);
    }
    communicator.barrier();
  });
  return String(seconds);
});
training.runtime.close();

/** train-gpt.ts SHAPE (JSON): answers each request with the seconds of one whole step, data parallel. */
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const training = await setUpModel(shape, { strategy: 'ddp' });
const { communicator } = training.runtime;
const batches = globalBatches(training);
let step = 0;
await serve(communicator, async () => {
  communicator.barrier();
  const seconds = await timed(async () => {
    const { value } = await batches.next();
    await trainStep(training, step, value!);
  });
  step += 1;
  return String(seconds);
});
training.runtime.close();

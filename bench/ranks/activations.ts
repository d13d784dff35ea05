/** activations.ts SHAPE: answers any request with the engine's memory account after two training steps (JSON). */
import { trainStep } from '../../src/trainer/step.ts';
import { globalBatches, type ModelShape, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const training = await setUpModel(shape, { strategy: 'ddp' });
const { engine, communicator } = training.runtime;
const batches = globalBatches(training);
for (let step = 0; step < 2; step += 1) {
  const { value } = await batches.next();
  await trainStep(training, step, value!);
}
await serve(communicator, async () => JSON.stringify(engine.memory()));
training.runtime.close();

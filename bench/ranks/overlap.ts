/**
 * overlap.ts SHAPE OVERLAP: `compute` is answered with the seconds of a micro batch that sends nothing,
 * `reduce` with those of one whose gradients are reduced, `gradient` with the gradient's bytes;
 * `throttle N` lets the comm queue move N bytes a second.
 */
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const training = await setUpModel(shape, {
  strategy: 'deepspeed',
  deepspeed: {
    train_micro_batch_size_per_gpu: shape.rows,
    gradient_accumulation_steps: 2,
    zero_optimization: {
      stage: 1,
      overlap_comm: process.argv[3] === 'overlap',
      // Four buckets a layer of width 768: the default would put the whole model into one.
      reduce_bucket_size: 2_500_000,
    },
  },
});
const { host, session, gradients, runtime } = training;
const { engine, communicator } = runtime;
const { value: parts } = await globalBatches(training).next();
const batch = training.collate(parts![0]!, shape.rows);
// The target tokens of the global batch, as a step would normalise by.
const scale = gradients.lossScale / (2 * batch.targets * communicator.size);

/** Forward and backward; only the last micro batch of a step sends its gradients. */
async function microBatch(last: boolean): Promise<void> {
  const plan = session.lifecycle.fire('planStep', {
    training: true,
    step: 0,
    microBatch: last ? 1 : 0,
    microBatches: 2,
  });
  await host.trainMicroBatch(plan, batch, scale, 0);
  if (last) gradients.reduced();
  await engine.idle();
}

await serve(communicator, async (request) => {
  const [verb, value] = request.split(' ');
  if (verb === 'gradient') return String(session.layout.total * 4);
  if (verb === 'throttle') {
    engine.throttleComm(Number(value));
    return 'done';
  }
  communicator.barrier();
  return String(await timed(() => microBatch(verb === 'reduce')));
});
runtime.close();

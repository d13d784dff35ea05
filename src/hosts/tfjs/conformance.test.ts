/**
 * The tfjs host under the suite that every host passes: its train step, driven as a model's `fit` drives it,
 * over a variable and a loss of its own.
 */
import * as tf from '@tensorflow/tfjs';
import { hostConformance } from '../conformance.case.ts';
import { installHost } from './process.ts';

const host = installHost(null);
// One model for all sessions: TensorFlow.js never gives the same name to two variables.
const layer = tf.layers.dense({ units: 3, inputShape: [4] });

hostConformance({
  name: 'tfjs',
  needs: ['gradients', 'optimizerStep'],
  offers: new Set(),
  async train({ plugin, deepspeed, steps, microBatches }) {
    const { optimizer: _, ...config } = deepspeed;
    const model = tf.sequential({
      layers: [layer],
    });
    const [kernel, bias] = model.getWeights();
    model.setWeights([
      tf.tensor(
        Float32Array.from({ length: kernel!.size }, (_, i) => Math.sin(i)),
        kernel!.shape,
      ),
      tf.zerosLike(bias!),
    ]);
    model.compile({ optimizer: tf.train.sgd(0.1), loss: 'meanSquaredError' });
    host.withStrategy(model, { strategy: plugin, deepspeed: config });
    const batch = (seed: number, columns: number) =>
      tf.tensor(
        Float32Array.from({ length: 6 * microBatches * columns }, (_, i) =>
          Math.sin(seed + i * 1.3),
        ),
        [6 * microBatches, columns],
      );
    try {
      for (let step = 0; step < steps; step += 1) {
        await model.trainOnBatch(batch(step, 4), batch(step + 50, 3));
      }
    } finally {
      await host.close(model);
    }
  },
});

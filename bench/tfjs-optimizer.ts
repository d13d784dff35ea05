/**
 * One Adam step from gradients in TensorFlow.js tensors to new variables: the engine's, copies in and out
 * included, against TensorFlow.js's own on the cpu backend.
 */
import * as tf from '@tensorflow/tfjs';
import { HostContext } from '../src/hosts/tfjs/context.ts';
import type { Core, Optimizer, Variable } from '../src/hosts/tfjs/library.ts';
import { OptimizerSession } from '../src/hosts/tfjs/optimizer-session.ts';
import { settingsFor } from '../src/hosts/tfjs/settings.ts';
import { type Bench, measure, type Report, timed } from './lib.ts';

const sizes = [1, 10, 25, 50];

async function run({ log, only }: { log(line: string): void; only: string }): Promise<Report> {
  await tf.setBackend('cpu');
  const context = new HostContext(null);
  context.core = tf as unknown as Core;
  const report: Report = { figures: {}, aims: [] };
  for (const millions of sizes.filter((size) => `${size}M`.includes(only))) {
    const count = millions * 1e6;
    const gradient = tf.fill([count], 1e-3);
    const own = tf.variable(tf.fill([count], 0.5), true, `own${millions}`);
    const engines = tf.variable(tf.fill([count], 0.5), true, `engines${millions}`);
    const plain = tf.train.adam(1e-3);
    const native = tf.train.adam(1e-3) as unknown as Optimizer;
    const settings = settingsFor({}, null, 1, { adapter: null, own: native });
    const variables = [engines as unknown as Variable];
    const session = await OptimizerSession.open(context, native, variables, settings);
    const step = () => {
      const plan = { training: true, step: session.steps, microBatch: 0, microBatches: 1 };
      session.takeReplaced();
      session.arrays.trainMicroBatch(plan, (sink) =>
        sink.write(engines.name, gradient.dataSync() as Float32Array),
      );
      session.adapter!.prepare(1e-3);
      session.arrays.step({ plan, learningRates: [1e-3] });
      session.stepped();
    };
    const times = await measure(
      [
        {
          name: 'tfjs',
          run: () => timed(() => plain.applyGradients([{ name: own.name, tensor: gradient }])),
        },
        { name: 'native', run: () => timed(step) },
      ],
      { warmup: 1, rounds: millions > 10 ? 2 : 7 },
    );
    const [theirs, ours] = [times.get('tfjs')!.median, times.get('native')!.median];
    log(
      `${millions}M: TensorFlow.js ${(theirs * 1e3).toFixed(1)} ms, native ${(ours * 1e3).toFixed(2)} ms`,
    );
    report.figures[`${millions}M_tfjs_ms`] = theirs * 1e3;
    report.figures[`${millions}M_native_ms`] = ours * 1e3;
    report.aims.push({
      name: `${millions}M parameters: times faster`,
      value: theirs / ours,
      op: '>=',
      aim: 10,
    });
    tf.dispose([gradient, own, engines]);
    plain.dispose();
  }
  return report;
}

export default { about: "the native Adam step against TensorFlow.js's own", run } satisfies Bench;

/** The engine's updates beside TensorFlow.js's own: values and states after 100 steps. */
import * as tf from '@tensorflow/tfjs';
import { afterEach, expect, it } from 'vitest';
import { installHost } from './process.ts';

const host = installHost(null);
const steps = 100;
const rows = 4;

const waves = (columns: number, speed: number) =>
  tf.tensor(
    Float32Array.from({ length: steps * rows * columns }, (_, i) => Math.sin(1 + i * speed)),
    [steps * rows, columns],
  );
const x = waves(3, 1.7);
const y = waves(2, 1.3);
/** Linear in the weights: gradients change with every batch, and an early rounding never comes back in one. */
const product = (truth: tf.Tensor, output: tf.Tensor) => tf.mean(tf.mul(truth, output), -1);
const initial = Float32Array.from({ length: 6 }, (_, i) => Math.sin(i * 2.1) / 2);

const optimizers: Record<string, () => tf.Optimizer> = {
  sgd: () => tf.train.sgd(0.1),
  momentum: () => tf.train.momentum(0.05, 0.9),
  nesterov: () => tf.train.momentum(0.05, 0.8, true),
  adam: () => tf.train.adam(0.01),
  adamax: () => tf.train.adamax(0.01, 0.9, 0.99, 1e-7, 0.1),
  rmsprop: () => tf.train.rmsprop(0.01, 0.9, 0.5),
  centred: () => tf.train.rmsprop(0.01, 0.9, 0.1, 1e-8, true),
  adagrad: () => tf.train.adagrad(0.1, 0.2),
  adadelta: () => tf.train.adadelta(0.5),
};

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

/** What an optimizer holds, but for the names of variables, which differ between two models. */
async function statesOf(optimizer: tf.Optimizer): Promise<Record<string, number[]>> {
  if (optimizer.getClassName() === 'Adamax') return fieldsOfAdamax(optimizer);
  const weights = await optimizer.getWeights();
  return Object.fromEntries(
    weights.map(({ name, tensor }) => [
      name.replace(/^.*\//, ''),
      Array.from((tensor as tf.Tensor).dataSync()),
    ]),
  );
}

/** Its getWeights is not implemented in TensorFlow.js. */
async function fieldsOfAdamax(optimizer: tf.Optimizer): Promise<Record<string, number[]>> {
  await optimizer.getWeights().catch(() => {}); // gives the states back before it throws
  const fields = optimizer as unknown as Record<string, { variable: tf.Variable }[]> & {
    iteration: tf.Variable;
    accBeta1: tf.Variable;
  };
  const values = (name: string) => Array.from(fields[name]![0]!.variable.dataSync());
  return {
    m: values('accumulatedFirstMoment'),
    v: values('accumulatedWeightedInfNorm'),
    scalars: [fields.iteration.dataSync()[0]!, fields.accBeta1.dataSync()[0]!],
  };
}

interface Trained {
  values: number[];
  states: Record<string, number[]>;
}

/** `fit` hands the gradients to the engine. */
async function inEngine(optimizer: tf.Optimizer): Promise<Trained> {
  const model = tf.sequential({
    layers: [tf.layers.dense({ units: 2, useBias: false, inputShape: [3] })],
  });
  closing.push(() => host.close(model));
  model.setWeights([tf.tensor(initial.slice(), [3, 2])]);
  model.compile({ optimizer, loss: product });
  await model.fit(x, y, { batchSize: rows, shuffle: false, verbose: 0 });
  const values = Array.from(model.getWeights()[0]!.dataSync());
  return { values, states: await statesOf(optimizer) };
}

/** A loop of its own is TensorFlow.js and nothing else. */
async function inTensorFlow(optimizer: tf.Optimizer): Promise<Trained> {
  const kernel = tf.variable(tf.tensor(initial.slice(), [3, 2]));
  for (let step = 0; step < steps; step += 1) {
    const [inputs, truth] = [x, y].map((all) => tf.slice(all, [step * rows, 0], [rows, -1]));
    const loss = () =>
      tf.mean(product(truth!, tf.matMul(inputs!, kernel as tf.Tensor))) as tf.Scalar;
    optimizer.minimize(loss, false, [kernel]);
  }
  return { values: Array.from(kernel.dataSync()), states: await statesOf(optimizer) };
}

/**
 * Two roundings of 2⁻²⁴ a step, which 100 steps at most add up: 1.2·10⁻⁵ of the largest number of a state.
 * Running products of β do not depend on gradients, and are equal to the bit.
 */
function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  const largest = Math.max(...expected.map(Math.abs));
  for (const [index, value] of expected.entries()) {
    expect(Math.abs(actual[index]! - value)).toBeLessThanOrEqual(2 * steps * 2 ** -24 * largest);
  }
}

it.each(Object.keys(optimizers))(
  '%s: values and states are those of TensorFlow.js',
  async (name) => {
    const expected = await inTensorFlow(optimizers[name]!());
    const actual = await inEngine(optimizers[name]!());
    expectClose(actual.values, expected.values);
    expect(Object.keys(actual.states)).toEqual(Object.keys(expected.states));
    for (const [state, values] of Object.entries(expected.states)) {
      expectClose(actual.states[state]!, values);
    }
    if (expected.states.scalars) expect(actual.states.scalars).toEqual(expected.states.scalars);
  },
);

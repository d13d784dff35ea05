/** Trying losses and metrics on made-up rows: what is a mean over rows passes, what is none does not. */
import * as tf from '@tensorflow/tfjs';
import { beforeAll, expect, it } from 'vitest';
import type { Core, LayersModel, MetricFunction, Tensor } from './library.ts';
import { type OwnFunction, ownFunctions, tryOnParts } from './own-functions.ts';

const core = tf as unknown as Core;
beforeAll(async () => void (await tf.setBackend('cpu')));

type Measure = (truth: tf.Tensor, output: tf.Tensor) => tf.Tensor;

const targets = {
  classes: tf.oneHot(tf.tensor1d([0, 2, 1, 2, 2, 0, 1, 0], 'int32'), 3).toFloat(),
  binary: tf.tensor2d([1, 0, 0, 1, 1, 1, 0, 1], [8, 1]),
  real: tf.tensor2d(
    Array.from({ length: 24 }, (_, i) => Math.sin(i)),
    [8, 3],
  ),
  labels: tf.tensor2d([0, 2, 1, 2, 2, 0, 1, 0], [8, 1]),
};

function trial(target: tf.Tensor, width: number, call: Measure) {
  const input = tf.input({ shape: [2] });
  const output = tf.layers.dense({ units: width }).apply(input) as tf.SymbolicTensor;
  const model = tf.model({ inputs: input, outputs: output }) as unknown as LayersModel;
  const own: OwnFunction = {
    what: 'metric',
    name: 'measure',
    output: 0,
    call: call as unknown as MetricFunction,
  };
  const batch = [tf.zeros([8, 2]), target] as unknown as Tensor[];
  return tryOnParts(core, model, [own], batch);
}

const means: [string, tf.Tensor, number, Measure][] = [
  ...(['MSE', 'MAPE', 'cosineProximity', 'meanAbsoluteError'] as const).map(
    (name): [string, tf.Tensor, number, Measure] => [name, targets.real, 3, tf.metrics[name]],
  ),
  ['categoricalAccuracy', targets.classes, 3, tf.metrics.categoricalAccuracy],
  ['categoricalCrossentropy', targets.classes, 3, tf.metrics.categoricalCrossentropy],
  ['binaryAccuracy', targets.binary, 1, tf.metrics.binaryAccuracy],
  ['binaryCrossentropy', targets.binary, 1, tf.metrics.binaryCrossentropy],
  ['sparseCategoricalAccuracy', targets.labels, 3, tf.metrics.sparseCategoricalAccuracy],
  ...(['absoluteDifference', 'huberLoss', 'meanSquaredError', 'hingeLoss'] as const).map(
    (name): [string, tf.Tensor, number, Measure] => [
      `losses.${name}`,
      targets.real,
      3,
      tf.losses[name],
    ],
  ),
  ['losses.sigmoidCrossEntropy', targets.classes, 3, tf.losses.sigmoidCrossEntropy],
  ['losses.softmaxCrossEntropy', targets.classes, 3, tf.losses.softmaxCrossEntropy],
  ['losses.logLoss', targets.binary, 1, tf.losses.logLoss],
  [
    'one with noise in it',
    targets.real,
    3,
    (a, b) => tf.mean(tf.sub(tf.add(a, tf.randomNormal(a.shape)), b)),
  ],
  [
    'one that refuses these outputs',
    targets.real,
    3,
    () => {
      throw new Error('no');
    },
  ],
];
it.each(means)('%s is a mean over rows', (_, target, width, call) => {
  expect(trial(target, width, call)).toEqual({ differences: [], settled: true });
});

const others: [string, tf.Tensor, number, Measure][] = [
  ['precision', targets.binary, 1, tf.metrics.precision],
  ['recall', targets.binary, 1, tf.metrics.recall],
  ['r2Score', targets.real, 3, tf.metrics.r2Score],
  ['a sum', targets.real, 3, (a, b) => tf.sum(tf.square(tf.sub(a, b)))],
  ['a largest error', targets.real, 3, (a, b) => tf.max(tf.abs(tf.sub(a, b)))],
  ['a mean over positives', targets.binary, 1, (a, b) => tf.div(tf.sum(tf.mul(a, b)), tf.sum(a))],
  [
    'products of rows',
    targets.real,
    3,
    (_, b) => tf.logSumExp(tf.matMul(b as tf.Tensor2D, b as tf.Tensor2D, false, true), 1),
  ],
];
it.each(others)('%s is none', (_, target, width, call) => {
  expect(trial(target, width, call).differences).toEqual([
    expect.stringMatching(
      /the metric measure of rows made up for a trial is \S+ of the whole batch/,
    ),
  ]);
});

it('targets that are all alike settle nothing', () => {
  expect(trial(tf.ones([8, 1]), 1, tf.metrics.MSE).settled).toBe(false);
});

it('own functions are those that compile was given, but for what TensorFlow.js exports', () => {
  const builtIn = new Set(Object.values(tf.metrics)) as unknown as Set<MetricFunction>;
  // A name is no proof.
  const meanSquaredError: Measure = (a, b) => tf.sum(tf.square(tf.sub(a, b)));
  const input = tf.input({ shape: [2] });
  const layer = (name: string) => tf.layers.dense({ units: 1, name });
  const outputs = ['p', 'q'].map((name) => layer(name).apply(input) as tf.SymbolicTensor);
  const model = tf.model({ inputs: input, outputs });
  model.compile({
    optimizer: 'sgd',
    loss: { p: 'meanSquaredError', q: meanSquaredError as never },
    metrics: { p: ['mae', tf.metrics.precision], q: [meanSquaredError, trial] } as never,
  });
  const own = ownFunctions(model as unknown as LayersModel, builtIn);
  expect(own.map(({ what, name, output }) => [what, name, output])).toEqual([
    ['loss', 'meanSquaredError', 1],
    ['metric', 'trial', 1],
  ]);
});

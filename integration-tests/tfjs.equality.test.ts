/** An unchanged TensorFlow.js script gives the same losses, metrics and weights at any number of ranks. */
import { beforeAll, describe, expect, it } from 'vitest';
import { alone, difference, overRanks } from './tfjs.run.ts';

const names = [
  ...['sgd', 'momentum', 'nesterov', 'adam', 'adamax', 'rmsprop', 'centred', 'adagrad', 'adadelta'],
  ...['ownOptimizer', 'conv', 'recurrent', 'batchNorm', 'transformer'],
  ...['fitDataset', 'trainOnBatch', 'validation', 'evaluate', 'classWeights', 'sampleWeights'],
  ...['severalOutputs', 'earlyStopping', 'learningRates', 'sgdRate', 'frozen', 'adversaries'],
  ...['atOnce', 'insideCallback', 'replacedWeights', 'minimizeLoop', 'gradientLoop', 'mixed'],
  ...['ownSeed', 'sharedLayers', 'generated', 'resumed'],
];

/**
 * fp32 sums in another order: each step's gradients differ by some 10⁻⁷ of their size, and adaptive
 * optimizers divide small ones by their own size, so that a step may differ by some 10⁻⁶ of the learning
 * rate. Numbers below 10⁻³ count as 10⁻³.
 */
const tolerance = 3e-5;

const runs: Record<string, Record<string, unknown>> = {};
let notes = '';
beforeAll(async () => {
  runs.alone = await alone('scenarios.cjs', names.join());
  for (const ranks of [1, 2, 3, 4]) {
    const run = await overRanks(ranks, 'scenarios.cjs', [names.join()]);
    runs[ranks] = run.results();
    notes = run.stderr;
  }
}, 600_000);

describe.each([1, 2, 3, 4])('%i ranks equal one process', (ranks) => {
  it.each(names)('%s', (name) => {
    const expected = runs.alone![name];
    expect(expected).not.toHaveProperty('error');
    expect(difference(expected, runs[ranks]![name])).toBeLessThan(tolerance);
  });
});

it('loops that show no batch are told about once, by one rank', () => {
  expect(notes.match(/a loop over optimizer.minimize .* shows no batch/g)).toHaveLength(1);
});

it('the comparison sees what differs', () => {
  expect(difference(runs.alone!.sgd, runs.alone!.adam)).toBeGreaterThan(100 * tolerance);
  expect(difference({ a: [1] }, { a: [1, 2] })).toBe(Number.POSITIVE_INFINITY);
});

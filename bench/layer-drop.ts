/**
 * What progressive layer drop saves of forward and backward: 24 layers at theta 0.5, draws as in training,
 * against the whole model and one without layers. A kept layer's scaling and a dropped one's copies count.
 */
import { drawLayers, keepProbability } from '../src/strategies/progressive-layer-drop.ts';
import type { StepPlan } from '../src/hooks/index.ts';
import { type Bench, type BenchOptions, measure, type Report, timed } from './lib.ts';
import { globalBatches, setUpModel } from './ranks/model.ts';

const shape = { width: 256, layers: 24, vocabulary: 2048, length: 128, rows: 1 };
const theta = 0.5;
/** Steps whose draws are timed, each as often as the whole model. */
const draws = 5;

async function run({ log }: BenchOptions): Promise<Report> {
  const training = await setUpModel(shape, {
    strategy: 'deepspeed',
    // The plans below say what is dropped; theta 1 drops nothing by itself.
    deepspeed: { progressive_layer_drop: { enabled: true, theta: 1, gamma: 0 } },
  });
  const { host, runtime } = training;
  const { value: parts } = await globalBatches(training).next();
  const batch = training.collate(parts![0]!, shape.rows);
  const microBatch = (scales: readonly number[] | null) => {
    const plan: StepPlan = {
      training: true,
      step: 0,
      microBatch: 0,
      microBatches: 2,
      ...(scales && {
        residualScales: new Map(host.skippable.map((segment, i) => [segment, scales[i]!])),
      }),
    };
    return timed(() => host.trainMicroBatch(plan, batch, 1 / batch.targets, 0));
  };
  // Late enough for the schedule to have arrived at theta.
  const drawn = Array.from({ length: draws }, (_, i) =>
    drawLayers(1e6 + i, shape.layers, 42, { theta, gamma: 1 }),
  );
  const times = await measure(
    [
      { name: 'whole', run: () => microBatch(null) },
      { name: 'none', run: () => microBatch(Array(shape.layers).fill(0)) },
      ...drawn.map((scales, i) => ({ name: `draw ${i}`, run: () => microBatch(scales) })),
    ],
    { warmup: 1, rounds: 7 },
  );
  runtime.close();
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const whole = times.get('whole')!.median;
  const none = times.get('none')!.median;
  const dropping = mean(drawn.map((_, i) => times.get(`draw ${i}`)!.median));
  const dropped = mean(drawn.map((scales) => scales.filter((scale) => scale === 0).length));
  const expected =
    shape.layers -
    Array.from({ length: shape.layers }, (_, i) => keepProbability(i, shape.layers, theta)).reduce(
      (sum, p) => sum + p,
      0,
    );
  const cost = (dropped / shape.layers) * (whole - none);
  log(`dropped ${dropped.toFixed(2)} of ${shape.layers} layers; in the long run ${expected}`);
  return {
    figures: {
      'whole model, ms': whole * 1e3,
      'without its layers, ms': none * 1e3,
      'with draws at theta 0.5, ms': dropping * 1e3,
      'layers dropped, of 24': dropped,
      'time saved, share': 1 - dropping / whole,
    },
    aims: [
      {
        name: 'time saved over what the dropped layers cost',
        value: (whole - dropping) / cost,
        op: '>=',
        aim: 0.9,
      },
    ],
  };
}

export default {
  about: 'layer drop: time saved against what the dropped layers cost',
  run,
} satisfies Bench;

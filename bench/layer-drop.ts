/**
 * Progressive layer drop with 24 layers at theta 0.5. `time`: what it saves of forward and backward, draws as in
 * training, against the whole model and one without layers; a kept layer's scaling and a dropped one's copies
 * count. `MODEL rate R seed N whole` and `... dropping`: validation loss on the demo corpus, both on the same samples
 * in the same order. gamma is the published 100 / steps; DeepSpeed's own example, 0.001 for 200,000 steps, comes to
 * 200 / steps. The published run that drops layers has a larger learning rate than the one that does not (in
 * DeepSpeed's example 1e-3 and 4e-4): each is taken at the best of the same few rates. `long` is the demo's model
 * trained four times as long, `example` the demo's with the keys of DeepSpeed's example as they stand.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StepPlan } from '../src/hooks/index.ts';
import { drawLayers, keepProbability } from '../src/strategies/progressive-layer-drop.ts';
import { AutoModelForCausalLM, Trainer, tokenBlocks } from '../src/transformers.ts';
import { type Corpus, demoCorpus } from './corpus.ts';
import { type Aim, type Bench, type BenchOptions, measure, type Report, timed } from './lib.ts';
import { demoShape, globalBatches, modelConfig, setUpModel } from './ranks/model.ts';

const layers = 24;
const theta = 0.5;

const timedShape = { width: 256, layers, vocabulary: 2048, length: 128, rows: 1 };
/**
 * Steps whose draws are timed: what one drops has a deviation of 2 layers, so the mean of 64 is within about 0.25 of
 * its expectation. The whole model is timed as often as this divides them.
 */
const draws = 64;
const drawsATurn = 8;

const [length, rows] = [128, 8];

/** Small enough that six runs take minutes: as deep as what is timed, and the demo's model. */
const trained = {
  deep: { shape: { layers, width: 64, heads: 4 }, steps: 400, gamma: 100 / 400, rates: [1e-3] },
  demo: { shape: demoShape, steps: 500, gamma: 100 / 500, rates: [5e-4, 1e-3, 2e-3, 4e-3] },
  long: { shape: demoShape, steps: 2000, gamma: 100 / 2000, rates: [1e-3] },
  example: { shape: demoShape, steps: 500, gamma: 0.001, rates: [1e-3] },
};
type Model = keyof typeof trained;
const seeds = [1, 2, 3];

const mean = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

async function timePart({ log }: BenchOptions): Promise<Report> {
  const training = await setUpModel(timedShape, {
    strategy: 'deepspeed',
    // The plans below say what is dropped; theta 1 drops nothing by itself.
    deepspeed: { progressive_layer_drop: { enabled: true, theta: 1, gamma: 0 } },
  });
  const { host, runtime } = training;
  const { value: parts } = await globalBatches(training).next();
  const batch = training.collate(parts![0]!, timedShape.rows);
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
    drawLayers(1e6 + i, layers, 42, { theta, gamma: 1 }),
  );
  const times = await measure(
    [
      { name: 'none', run: () => microBatch(Array(layers).fill(0)) },
      ...drawn.flatMap((scales, i) => {
        const draw = { name: `draw ${i}`, run: () => microBatch(scales) };
        return i % drawsATurn > 0
          ? [draw]
          : [{ name: `whole ${i}`, run: () => microBatch(null) }, draw];
      }),
    ],
    { warmup: 1, rounds: 5 },
  );
  runtime.close();
  const medians = (kind: string) =>
    [...times].filter(([name]) => name.startsWith(kind)).map(([, { median }]) => median);
  const wholes = medians('whole');
  const whole = mean(wholes);
  const none = mean(medians('none'));
  const dropping = mean(medians('draw'));
  const dropped = mean(drawn.map((scales) => scales.filter((scale) => scale === 0).length));
  const kept = Array.from({ length: layers }, (_, i) => keepProbability(i, layers, theta));
  log(
    `dropped ${dropped.toFixed(2)} of ${layers} layers; in the long run ${layers * (1 - mean(kept))}`,
  );
  return {
    figures: {
      'whole model, ms': whole * 1e3,
      'whole model, spread': (Math.max(...wholes) - Math.min(...wholes)) / whole,
      'without its layers, ms': none * 1e3,
      'with draws at theta 0.5, ms': dropping * 1e3,
      'layers dropped, of 24': dropped,
      'time saved, share': 1 - dropping / whole,
    },
    aims: [
      {
        name: 'time saved over what the dropped layers cost',
        value: (whole - dropping) / ((dropped / layers) * (whole - none)),
        op: '>=',
        aim: 0.9,
      },
    ],
  };
}

interface Trained {
  /** Of the held-out addresses, nats per token. */
  loss: number;
  /** Of training alone, in seconds. */
  seconds: number;
}

async function train(
  corpus: Corpus,
  model: Model,
  { rate, seed, kind }: LossCase,
): Promise<Trained> {
  const { shape, steps, gamma } = trained[model];
  const folder = mkdtempSync(join(tmpdir(), 'layer-drop-'));
  const trainer = new Trainer({
    model: AutoModelForCausalLM.fromConfig(
      modelConfig({ ...shape, vocabulary: corpus.vocabulary, length }),
    ),
    trainDataset: tokenBlocks(corpus.train, length),
    evalDataset: tokenBlocks(corpus.held, length),
    args: {
      outputDir: folder,
      deepspeed: {
        progressive_layer_drop: { enabled: kind === 'dropping', theta, gamma },
      },
      seed,
      maxSteps: steps,
      perDeviceTrainBatchSize: rows,
      learningRate: rate,
      weightDecay: 0.1,
      lrSchedulerType: 'cosine',
      warmupSteps: 40,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
    },
  });
  try {
    const seconds = await timed(() => trainer.train());
    return { loss: (await trainer.evaluate()).eval_loss, seconds };
  } finally {
    await trainer.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function lossPart(
  model: Model,
  cases: readonly LossCase[],
  { log }: BenchOptions,
): Promise<Report> {
  const corpus = await demoCorpus();
  const { rates, steps } = trained[model];
  const figures: Report['figures'] = {};
  const losses = new Map<string, number>();
  for (const one of cases) {
    const { loss, seconds } = await train(corpus, model, one);
    losses.set(one.name, loss);
    figures[`${one.name}: validation loss`] = loss;
    figures[`${one.name}: ms a sample`] = (seconds * 1e3) / (steps * rows);
    log(`${one.name}: validation loss ${loss.toFixed(4)}`);
  }
  /** By seed, at the rate where their mean is least. */
  const best = (kind: LossCase['kind']): readonly number[] | undefined =>
    rates
      .map((rate) => seeds.flatMap((seed) => losses.get(nameOf(model, rate, seed, kind)) ?? []))
      .filter((own) => own.length === seeds.length)
      .sort((a, b) => mean(a) - mean(b))[0];
  const [whole, dropping] = [best('whole'), best('dropping')];
  const value = whole && dropping ? (mean(dropping) - mean(whole)) / deviation(whole) : null;
  const name = `${model}: validation loss over the whole, each at its best rate, in deviations of the seeds`;
  return { figures, aims: [{ name, value, op: '<=', aim: 1 }] };
}

interface LossCase {
  name: string;
  /** Learning rate. */
  rate: number;
  seed: number;
  kind: 'whole' | 'dropping';
}

const nameOf = (model: Model, rate: number, seed: number, kind: LossCase['kind']) =>
  `${model} rate ${rate} seed ${seed} ${kind}`;

const lossCases = (model: Model): LossCase[] =>
  trained[model].rates.flatMap((rate) =>
    seeds.flatMap((seed) =>
      (['whole', 'dropping'] as const).map((kind) => ({
        name: nameOf(model, rate, seed, kind),
        rate,
        seed,
        kind,
      })),
    ),
  );

/** Of a sample. */
function deviation(values: readonly number[]): number {
  const squares = values.map((value) => (value - mean(values)) ** 2);
  return Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / (values.length - 1));
}

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  const aims: Aim[] = [];
  const add = (report: Report) => {
    Object.assign(figures, report.figures);
    aims.push(...report.aims);
  };
  if ('time'.includes(options.only)) add(await timePart(options));
  for (const model of Object.keys(trained) as Model[]) {
    const cases = lossCases(model).filter(({ name }) => name.includes(options.only));
    if (cases.length > 0) add(await lossPart(model, cases, options));
  }
  return { figures, aims };
}

export default {
  about: 'layer drop: time saved against what the dropped layers cost, and validation loss',
  run,
} satisfies Bench;

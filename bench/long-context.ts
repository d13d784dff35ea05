/**
 * The demo's model at sequences of 8,192 tokens, its attention dense and by a BigBird layout. `speed`: whole
 * steps, alternating. `loss dense`, `loss bigbird`: validation loss on the demo corpus after as many steps on the
 * same samples.
 */
import { type Training, setUpTraining } from '../src/trainer/setup.ts';
import { evaluate } from '../src/trainer/evaluation.ts';
import { parseArguments, type TrainingArguments } from '../src/trainer/arguments.ts';
import { trainStep } from '../src/trainer/step.ts';
import { AutoModelForCausalLM, tokenBlocks } from '../src/transformers.ts';
import { type Corpus, demoCorpus } from './corpus.ts';
import { type Bench, type BenchOptions, measure, type Report, timed } from './lib.ts';
import { demoShape, globalBatches, modelConfig } from './ranks/model.ts';

const length = 8192;
const section = { mode: 'bigbird', block: 64, num_random_blocks: 1, attention: 'unidirectional' };
const kinds = ['dense', 'bigbird'] as const;
/** Steps until the losses are compared. */
const steps = 30;

function open(corpus: Corpus, kind: (typeof kinds)[number]): Promise<Training> {
  const model = AutoModelForCausalLM.fromConfig(
    modelConfig({ ...demoShape, vocabulary: corpus.vocabulary, length }),
  );
  const given: TrainingArguments = {
    outputDir: 'unused', // nothing is saved
    deepspeed: { ...(kind === 'bigbird' && { sparse_attention: section }) },
    maxSteps: steps,
    perDeviceTrainBatchSize: 1,
    perDeviceEvalBatchSize: 1,
    learningRate: 1e-3,
    weightDecay: 0.1,
    lrSchedulerType: 'cosine',
    warmupSteps: 5,
    reportTo: [],
    disableTqdm: true,
  };
  const trainDataset = tokenBlocks(corpus.train, length);
  return setUpTraining({ model, given, args: parseArguments(given), trainDataset, runtime: {} });
}

/** One step after the other. */
function stepper(training: Training): () => Promise<void> {
  const batches = globalBatches(training);
  let step = 0;
  return async () => {
    const { value } = await batches.next();
    await trainStep(training, step, value!);
    step += 1;
  };
}

async function speed(corpus: Corpus, figures: Report['figures']): Promise<void> {
  const trainings = await Promise.all(kinds.map((kind) => open(corpus, kind)));
  const subjects = trainings.map((training, i) => {
    const next = stepper(training);
    return { name: kinds[i]!, run: () => timed(next) };
  });
  const times = await measure(subjects, { warmup: 1, rounds: 5 });
  for (const [i, kind] of kinds.entries()) {
    const { median, spread } = times.get(kind)!;
    figures[`${kind}: tokens/s`] = length / median;
    figures[`${kind}: spread`] = spread;
    const { activations, workspace } = trainings[i]!.runtime.engine.memory().peak;
    figures[`${kind}: activations and workspace, MiB`] = (activations + workspace) / 2 ** 20;
  }
  figures['bigbird over dense'] = times.get('dense')!.median / times.get('bigbird')!.median;
  for (const { runtime } of trainings) runtime.close();
}

async function loss(corpus: Corpus, kind: (typeof kinds)[number]): Promise<number> {
  const training = await open(corpus, kind);
  const next = stepper(training);
  for (let step = 0; step < steps; step++) await next();
  const { eval_loss } = await evaluate(training, tokenBlocks(corpus.held, length), steps);
  training.runtime.close();
  return eval_loss;
}

async function run({ only }: BenchOptions): Promise<Report> {
  const corpus = await demoCorpus();
  const figures: Report['figures'] = {};
  if ('speed'.includes(only)) await speed(corpus, figures);
  for (const kind of kinds.filter((name) => `loss ${name}`.includes(only)))
    figures[`${kind}: validation loss after ${steps} steps`] = await loss(corpus, kind);
  return { figures, aims: [] };
}

export default {
  about: 'sequences of 8,192 tokens: sparse attention against dense, tokens/s and loss',
  run,
} satisfies Bench;

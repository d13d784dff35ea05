/** One rank of a scenario of train-loop.test.ts. */
import { join } from 'node:path';
import { fromNumbers, GraphBuilder, saveModel } from '../../graph/index.ts';
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { OnnxModel } from '../../hosts/onnx/onnx-model.ts';
import type { TrainingArguments } from '../arguments.ts';
import type { CallbackContext, TrainerCallback, TrainerControl } from '../callbacks.ts';
import { Trainer, type TrainerOptions } from '../trainer.ts';
import type { World } from './run-ranks.ts';
import { tinyGpt2 } from './tiny-trainer.ts';

export interface ScenarioTask {
  scenario: keyof typeof scenarios;
  outputDir: string;
}

export interface ScenarioResult {
  /** Steps at which this rank saw a log, an evaluation. */
  logged: number[];
  evaluated: number[];
  step: number;
  parameters: Map<string, Float32Array>;
}

/** Of the run under way: a thread plays one at a time. */
let rank = 0;
let outputDir = '';
let seen: Pick<ScenarioResult, 'logged' | 'evaluated'>;

const samples = Array.from({ length: 32 }, (_, row) => ({
  input_ids: Array.from({ length: 8 }, (_, i) => (row * 7 + i * 5) % 31),
}));
const data = { length: samples.length, get: (index: number) => samples[index]! };

const languageModel = (width = 8) =>
  AutoModelForCausalLM.fromConfig({ ...tinyGpt2, n_embd: width });

/** y = x·used decides the loss; aux = x·spare is an output that the loss does not see. */
async function modelWithSpareHead() {
  const b = new GraphBuilder('heads');
  const x = b.input('x', 'float32', ['batch', 16]);
  const weight = (name: string) =>
    b.initializer(name, fromNumbers('float32', [16, 16], Array(256).fill(0.5)));
  const hidden = b.op('Tanh', [b.op('MatMul', [x, weight('trunk')])]);
  b.output(b.op('MatMul', [hidden, weight('used')], {}, { output: 'y' }), 'float32', ['batch', 16]);
  const spare = b.op('MatMul', [hidden, weight('spare')], {}, { output: 'aux' });
  b.output(spare, 'float32', ['batch', 16]);
  const path = join(outputDir, `model-${rank}.onnx`);
  const opsets = new Map([['', 21]]);
  const file = { irVersion: 10, producerName: 'test', opsets, graph: b.build() };
  await saveModel({ ...file, metadata: new Map<string, string>() }, path);
  return OnnxModel.fromFile(path, {
    loss: { type: 'meanSquaredError', prediction: 'y', targets: 'target' },
    outputs: ['y', 'aux'],
  });
}

/** A callback of one rank alone. */
const onlyOn = (wanted: number, callback: TrainerCallback) => (rank === wanted ? [callback] : []);

const ask =
  (wish: keyof TrainerControl) =>
  ({ control }: CallbackContext): void => {
    control[wish] = true;
  };

const plain = (): TrainingArguments => ({
  outputDir,
  maxSteps: 6,
  perDeviceTrainBatchSize: 2,
  saveStrategy: 'no',
  reportTo: [],
  disableTqdm: true,
});

const keepTwo = (): TrainingArguments => ({
  ...plain(),
  saveStrategy: 'steps',
  saveSteps: 1,
  saveTotalLimit: 2,
});

const scenarios = {
  onlyRank0Listens: async () => ({
    model: languageModel(),
    args: { ...plain(), loggingSteps: 2 },
    evalDataset: data,
    callbacks: onlyOn(0, {
      onLog({ state, control }) {
        seen.logged.push(state.step);
        control.shouldEvaluate = state.step === 2;
      },
      onEvaluate: ask('shouldSave'),
    }),
  }),
  onlyRank1Stops: async () => ({
    model: languageModel(),
    args: { ...plain(), saveStrategy: 'steps', saveSteps: 3 },
    callbacks: onlyOn(1, { onSave: ask('shouldTrainingStop') }),
  }),
  stoppedBeforeTheStart: async () => ({
    model: languageModel(),
    args: plain(),
    callbacks: onlyOn(1, {
      onTrainBegin: ask('shouldTrainingStop'),
    }),
  }),
  bestIsNotSaved: async () => ({
    model: languageModel(),
    args: {
      ...plain(),
      learningRate: 0.01,
      evalStrategy: 'steps',
      evalSteps: 1,
      saveStrategy: 'steps',
      saveSteps: 3,
      saveTotalLimit: 1,
      loadBestModelAtEnd: true,
      metricForBestModel: 'loss',
      // The loss falls: the "best" is the first evaluation, which no checkpoint has.
      greaterIsBetter: true,
    },
    evalDataset: data,
  }),
  keepsTwo: async () => ({ model: languageModel(), args: keepTwo() }),
  keepsTwoInBackground: async () => ({
    model: languageModel(),
    args: { ...keepTwo(), asyncSave: true },
  }),
  differentArguments: async () => ({
    model: languageModel(),
    args: { ...plain(), outputDir: join(outputDir, String(rank)), learningRate: 0.1 },
  }),
  differentModels: async () => ({ model: languageModel(8 + 8 * rank), args: plain() }),
  differentDatasets: async () => ({
    model: languageModel(),
    args: plain(),
    trainDataset: { ...data, length: 32 - 8 * rank },
  }),
  spareHead: async () => ({
    model: await modelWithSpareHead(),
    args: {
      ...plain(),
      weightDecay: 0.1,
      learningRate: 0.01,
      deepspeed: { zero_optimization: { stage: 2, reduce_bucket_size: 1 } },
    },
    trainDataset: {
      length: 32,
      get: (index: number) => ({
        x: Array.from({ length: 16 }, (_, i) => Math.sin(index * 16 + i)),
        target: Array(16).fill(index / 32),
      }),
    },
  }),
} satisfies Record<string, () => Promise<Partial<TrainerOptions>>>;

export async function run(task: ScenarioTask, world: World): Promise<ScenarioResult> {
  ({ rank } = world);
  ({ outputDir } = task);
  seen = { logged: [], evaluated: [] };
  const given = (await scenarios[task.scenario]()) as Omit<TrainerOptions, 'args'> & {
    args: TrainerOptions['args'];
  };
  const trainer = new Trainer({
    trainDataset: data,
    ...given,
    runtime: { world, threads: 1 },
  });
  const parameters = new Map<string, Float32Array>();
  try {
    await trainer.train();
    for (const { name } of given.model.parameters) {
      parameters.set(name, (await trainer.parameter(name)).slice());
    }
  } finally {
    await trainer.close();
  }
  const { step, logHistory } = trainer.state;
  seen.evaluated = logHistory.filter((entry) => 'eval_loss' in entry).map((entry) => entry.step);
  return { ...seen, step, parameters };
}

/** One rank of turns.test.ts: the same calls, each awaited before the next, or all made at once. */
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import type { EvaluationMetrics } from '../evaluation.ts';
import { Trainer } from '../trainer.ts';
import type { World } from './run-ranks.ts';

export interface TurnsTask {
  outputDir: string;
  stage: number;
  awaited: boolean;
}

export interface TurnsResult {
  evaluations: EvaluationMetrics[];
  /** The first elements of two parameters after training. */
  weights: number[];
  /** Steps after training, seen by a callback that evaluates, and by the caller. */
  steps: number[];
}

console.log = () => {};

const samples = Array.from({ length: 32 }, (_, row) => ({
  input_ids: Array.from({ length: 8 }, (_, at) => (row * 5 + at * 3) % 31),
}));
const names = ['transformer.wte.weight', 'transformer.h.0.mlp.c_fc.weight'];

export async function run(task: TurnsTask, world: World): Promise<TurnsResult> {
  const within: number[] = [];
  const trainer: Trainer = new Trainer({
    model: AutoModelForCausalLM.fromConfig({
      model_type: 'gpt2',
      vocab_size: 31,
      n_positions: 8,
      n_embd: 8,
      n_layer: 1,
      n_head: 1,
    }),
    trainDataset: samples,
    args: {
      outputDir: task.outputDir,
      perDeviceTrainBatchSize: 2,
      maxSteps: 2,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
      deepspeed: {
        zero_optimization: { stage: task.stage, stage3_param_persistence_threshold: 0 },
      },
    },
    callbacks: [
      {
        async onTrainEnd({ state }) {
          await trainer.evaluate(samples.slice(0, 4));
          within.push(state.step);
        },
      },
    ],
    runtime: { world, threads: 1 },
  });
  const calls = [
    () => trainer.evaluate(samples),
    () => trainer.evaluate(samples.slice(0, 16)),
    () => trainer.train(),
    ...names.map((name) => () => trainer.getFullFp32Param(name)),
  ] as const;
  const results: unknown[] = [];
  if (task.awaited) for (const call of calls) results.push(await call());
  else results.push(...(await Promise.all(calls.map((call) => call()))));
  const [first, second, trained, ...weights] = results as [
    EvaluationMetrics,
    EvaluationMetrics,
    { globalStep: number },
    Float32Array,
    Float32Array,
  ];
  await trainer.close();
  return {
    evaluations: [first, second],
    weights: weights.flatMap((values) => [...values.subarray(0, 8)]),
    steps: [...within, trained.globalStep],
  };
}

/** One rank of turns.test.ts: the same calls, each awaited before the next, or all made at once. */
import type { EvaluationMetrics } from '../evaluation.ts';
import type { Trainer } from '../trainer.ts';
import type { World } from './run-ranks.ts';
import { tinySamples, tinyTrainer } from './tiny-trainer.ts';

export interface TurnsTask {
  outputDir: string;
  stage: number;
  awaited: boolean;
}

export interface TurnsResult {
  /** The first logits of this rank's samples, of two predictions. */
  predictions: number[][];
  evaluations: EvaluationMetrics[];
  /** The first elements of two parameters after training. */
  weights: number[];
  /** Steps after training, seen by a callback that evaluates, and by the caller. */
  steps: number[];
}

console.log = () => {};

const samples = tinySamples(32);
const names = ['transformer.wte.weight', 'transformer.h.0.mlp.c_fc.weight'];

export async function run(task: TurnsTask, world: World): Promise<TurnsResult> {
  const within: number[] = [];
  const trainer: Trainer = tinyTrainer(
    {
      outputDir: task.outputDir,
      maxSteps: 2,
      deepspeed: {
        zero_optimization: { stage: task.stage, stage3_param_persistence_threshold: 0 },
      },
    },
    {
      trainDataset: samples,
      callbacks: [
        {
          async onTrainEnd({ state }) {
            await trainer.evaluate(samples.slice(0, 4));
            within.push(state.step);
          },
        },
      ],
      runtime: { world },
    },
  );
  const firstLogits = async (rows: typeof samples) => {
    const logits: number[] = [];
    for await (const { outputs } of trainer.predict(rows)) {
      logits.push(...outputs.logits!.data.subarray(0, 4));
    }
    return logits;
  };
  const calls = [
    () => firstLogits(samples.slice(0, 8)),
    () => firstLogits(samples.slice(8, 16)),
    () => trainer.evaluate(samples),
    () => trainer.evaluate(samples.slice(0, 16)),
    () => trainer.train(),
    ...names.map((name) => () => trainer.getFullFp32Param(name)),
  ] as const;
  const results: unknown[] = [];
  if (task.awaited) for (const call of calls) results.push(await call());
  else results.push(...(await Promise.all(calls.map((call) => call()))));
  const [firstPrediction, secondPrediction, first, second, trained, ...weights] = results as [
    number[],
    number[],
    EvaluationMetrics,
    EvaluationMetrics,
    { globalStep: number },
    Float32Array,
    Float32Array,
  ];
  await trainer.close();
  return {
    predictions: [firstPrediction, secondPrediction],
    evaluations: [first, second],
    weights: weights.flatMap((values) => [...values.subarray(0, 8)]),
    steps: [...within, trained.globalStep],
  };
}

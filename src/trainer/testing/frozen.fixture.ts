/** One rank of frozen.test.ts: a GPT-2 whose layers are frozen, each rank with weights of its own. */
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import type { MemoryAccount } from '../../native/index.ts';
import type { World } from './run-ranks.ts';
import { tinyGpt2, tinyTrainer } from './tiny-trainer.ts';

export interface FrozenTask {
  outputDir: string;
  /** Seed of rank r's initial weights: seed + r. */
  seed: number;
  /** Beginning of the names that are frozen. */
  freeze: string;
  steps: number;
  /** Default 2. */
  stage?: number;
  /** More of `zero_optimization`. */
  zero?: object;
  resume?: boolean;
  exclude?: boolean;
}

export interface FrozenResult {
  parameters: Record<string, Float32Array>;
  /** What this rank began with by itself. */
  initial: Record<string, Float32Array>;
  /** Elements of initial values that training asked for. */
  read: number;
  memory: MemoryAccount;
}

export async function run(task: FrozenTask, world: World): Promise<FrozenResult> {
  const seed = task.seed + world.rank;
  const model = AutoModelForCausalLM.fromConfig({ ...tinyGpt2, n_layer: 2 }, { seed }).freeze(
    (name) => name.startsWith(task.freeze),
  );
  let read = 0;
  const initial = model.initial;
  Object.assign(model, {
    initial: (name: string) => ({
      ...initial(name),
      read: (start: number, count: number) => {
        read += count;
        return initial(name).read(start, count);
      },
    }),
  });
  const trainer = tinyTrainer(
    {
      outputDir: task.outputDir,
      maxSteps: task.steps,
      saveStrategy: 'steps',
      lrSchedulerType: 'constant',
      learningRate: 0.01,
      excludeFrozenParameters: task.exclude ?? false,
      deepspeed: {
        zero_optimization: {
          stage: task.stage ?? 2,
          stage3_param_persistence_threshold: 0,
          ...task.zero,
        },
      },
    },
    { model, runtime: { world } },
  );
  const result: Omit<FrozenResult, 'memory' | 'read'> = { parameters: {}, initial: {} };
  for (const { name } of model.parameters) {
    result.initial[name] = initial(name).read().slice();
  }
  try {
    await trainer.train({ resumeFromCheckpoint: task.resume ?? false });
    for (const { name } of model.parameters) {
      result.parameters[name] = (await trainer.parameter(name)).slice();
    }
    return { ...result, read, memory: await trainer.memory() };
  } finally {
    await trainer.close();
  }
}

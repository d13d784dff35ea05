import {
  type DeepSpeedConfig,
  optimizerSettings,
  type RawConfig,
  readConfig,
  solveBatch,
  trainerAutos,
  resolveConfig,
} from '../config/index.ts';
import type { OptimizerHyper } from '../native/index.ts';
import { createSchedule, type Schedule } from '../schedules/index.ts';
import { type Precision, precisionOf } from '../strategies/precision/precision.ts';
import type { OptimizerRecipe } from '../strategies/zero/optimizer.ts';
import type { ResolvedArguments, TrainingArguments } from './arguments.ts';
import { trainerSchedule } from './hf-schedule.ts';

/** How a run trains, from the Trainer's arguments and the config together. */
export interface Recipe {
  readonly config: DeepSpeedConfig | null;
  readonly microBatchSize: number;
  readonly microBatches: number;
  readonly totalSteps: number;
  readonly schedule: Schedule;
  readonly optimizer: OptimizerRecipe;
  readonly precision: Precision;
}

export interface RecipeFacts {
  raw: RawConfig | null;
  given: TrainingArguments;
  args: ResolvedArguments;
  worldSize: number;
  hiddenSize?: number | undefined;
  /** Optimizer steps of the whole run for these batch sizes. */
  totalSteps(microBatchSize: number, microBatches: number): number;
}

/** The config wins where it speaks; the arguments fill its "auto" values and what it leaves out. */
export function makeRecipe(facts: RecipeFacts): Recipe {
  const { raw, given, args, worldSize } = facts;
  const { microBatchSize, microBatches } = batchSizes(raw, args, worldSize);
  const totalSteps = facts.totalSteps(microBatchSize, microBatches);
  const config =
    raw &&
    resolveConfig(withPrecision(withBatch(raw, microBatchSize, microBatches), args), {
      worldSize,
      autos: trainerAutos(given, args, { worldSize, totalSteps, hiddenSize: facts.hiddenSize }),
      hostLearningRate: args.learningRate,
      totalSteps,
    });
  const settings = config && optimizerSettings(config.optimizer);
  const hyper: OptimizerHyper = settings ?? {
    lr: args.learningRate,
    beta1: args.adamBeta1,
    beta2: args.adamBeta2,
    eps: args.adamEpsilon,
    weightDecay: args.weightDecay,
    biasCorrection: true,
  };
  return {
    config,
    microBatchSize,
    microBatches,
    totalSteps,
    schedule: config?.scheduler
      ? createSchedule(config.scheduler, hyper.lr)
      : trainerSchedule({ ...args, learningRate: hyper.lr }, totalSteps),
    optimizer: {
      kind: settings?.kind ?? 'adamw',
      groups: [hyper, { ...hyper, weightDecay: 0 }],
      maxNorm: config ? config.gradient_clipping : args.maxGradNorm,
    },
    precision: precisionOf(config ?? configOfArguments(args, microBatchSize, worldSize), worldSize),
  };
}

/** DeepSpeed's batch triangle on what the file says, the arguments standing in where it is silent. */
function batchSizes(raw: RawConfig | null, args: ResolvedArguments, worldSize: number) {
  const number = (key: string) => {
    const value = raw?.values[key];
    return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : null;
  };
  const train = number('train_batch_size');
  const micro = number('train_micro_batch_size_per_gpu');
  const accumulation = number('gradient_accumulation_steps');
  const known = [train, micro, accumulation].filter((value) => value !== null).length;
  const solved = solveBatch(
    {
      train_batch_size: train,
      train_micro_batch_size_per_gpu:
        micro ?? (train && known === 2 ? null : args.perDeviceTrainBatchSize),
      gradient_accumulation_steps: accumulation ?? (train ? null : args.gradientAccumulationSteps),
    },
    worldSize,
  );
  // An impossible triangle is reported with everything else that is wrong, by resolveConfig.
  if ('kind' in solved) {
    return {
      microBatchSize: micro ?? args.perDeviceTrainBatchSize,
      microBatches: accumulation ?? args.gradientAccumulationSteps,
    };
  }
  return {
    microBatchSize: solved.train_micro_batch_size_per_gpu,
    microBatches: solved.gradient_accumulation_steps,
  };
}

/** A config that says nothing of precision takes the Trainer's. */
function withPrecision(raw: RawConfig, args: ResolvedArguments): RawConfig {
  const { values } = raw;
  const speaks = ['fp16', 'bf16', 'bfloat16'].some((section) => values[section] !== undefined);
  if (speaks || !(args.fp16 || args.bf16)) return raw;
  const section = args.fp16 ? 'fp16' : 'bf16';
  return { ...raw, values: { ...values, [section]: { enabled: true } } };
}

/** What the arguments mean to a strategy that takes no config, with the config's own defaults. */
function configOfArguments(args: ResolvedArguments, microBatchSize: number, worldSize: number) {
  const batch = readConfig({ train_micro_batch_size_per_gpu: microBatchSize });
  return resolveConfig(withPrecision(batch, args), { worldSize });
}

/** Either may ask for it; resolveConfig has refused a contradiction. */
export function dropsLast(raw: RawConfig | null, args: ResolvedArguments): boolean {
  return args.dataloaderDropLast || raw?.values.dataloader_drop_last === true;
}

/** A config that leaves batch sizes out takes the Trainer's, as "auto" would. */
function withBatch(raw: RawConfig, microBatchSize: number, microBatches: number): RawConfig {
  const { values } = raw;
  if (
    values.train_batch_size !== undefined ||
    values.train_micro_batch_size_per_gpu !== undefined
  ) {
    return raw;
  }
  return {
    ...raw,
    values: {
      ...values,
      train_micro_batch_size_per_gpu: microBatchSize,
      gradient_accumulation_steps: values.gradient_accumulation_steps ?? microBatches,
    },
  };
}

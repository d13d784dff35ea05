import {
  type BatchSizes,
  type DeepSpeedConfig,
  optimizerSettings,
  type PartialBatchSizes,
  type RawConfig,
  readConfig,
  resolveConfig,
  solveBatch,
  trainerAutos,
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
  const wanted = wantedBatch(raw, given, args);
  const { microBatchSize, microBatches } = batchSizes(wanted, args, worldSize);
  const totalSteps = facts.totalSteps(microBatchSize, microBatches);
  const config =
    raw &&
    resolveConfig(withPrecision(withBatch(raw, wanted), args), {
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

/**
 * What file and arguments say of DeepSpeed's batch triangle. Arguments stand in where the file is silent; beside
 * its train_batch_size only those that the user wrote, since the rest follows from it.
 */
function wantedBatch(
  raw: RawConfig | null,
  given: TrainingArguments,
  args: ResolvedArguments,
): PartialBatchSizes {
  const inFile = (key: keyof BatchSizes) => {
    const value = raw?.values[key];
    return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : null;
  };
  const train = inFile('train_batch_size');
  const micro = inFile('train_micro_batch_size_per_gpu');
  const accumulation = inFile('gradient_accumulation_steps');
  const isWhole = train !== null && (micro ?? accumulation) !== null;
  const standIn = (
    key: keyof BatchSizes,
    name: 'perDeviceTrainBatchSize' | 'gradientAccumulationSteps',
  ) => {
    if (isWhole) return null;
    const isSilent = raw?.values[key] === undefined; // not "auto"
    return train !== null && isSilent ? (given[name] ?? null) : args[name];
  };
  return {
    train_batch_size: train,
    train_micro_batch_size_per_gpu:
      micro ?? standIn('train_micro_batch_size_per_gpu', 'perDeviceTrainBatchSize'),
    gradient_accumulation_steps:
      accumulation ?? standIn('gradient_accumulation_steps', 'gradientAccumulationSteps'),
  };
}

function batchSizes(wanted: PartialBatchSizes, args: ResolvedArguments, worldSize: number) {
  const solved = solveBatch(wanted, worldSize);
  // An impossible triangle is reported with everything else that is wrong, by resolveConfig.
  if ('kind' in solved) {
    return {
      microBatchSize: wanted.train_micro_batch_size_per_gpu ?? args.perDeviceTrainBatchSize,
      microBatches: wanted.gradient_accumulation_steps ?? args.gradientAccumulationSteps,
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

/** A config takes what it leaves out of batch sizes from the arguments, as "auto" would. */
function withBatch(raw: RawConfig, wanted: PartialBatchSizes): RawConfig {
  const left = Object.entries(wanted).filter(
    ([key, size]) => size !== null && raw.values[key] === undefined,
  );
  return { ...raw, values: { ...raw.values, ...Object.fromEntries(left) } };
}

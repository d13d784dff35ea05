import { z } from 'zod';
import { DeepSpeedError } from '../errors.ts';
import type { StrategyPlugin } from '../strategies/plugin.ts';
import { describeIssue } from './argument-problems.ts';

const positiveInt = z.number().int().positive();
const fraction = z.number().min(0).max(1);
const interval = z.enum(['no', 'steps', 'epoch']);

/** Trainer arguments: Hugging Face's names in camelCase, with Hugging Face's defaults. */
export const trainingArgumentsSchema = z.strictObject({
  /** Checkpoints, logs and pictures go here. */
  outputDir: z.string().min(1),
  /** `deepspeed`, `deepspeed_stage_1`, `deepspeed_stage_2`, `deepspeed_stage_3`, `ddp`, or a strategy object. */
  strategy: z.union([z.string(), z.custom<StrategyPlugin>(isStrategy)]).optional(),
  /** Path of a ds_config.json, or its content. */
  deepspeed: z.union([z.string(), z.record(z.string(), z.unknown())]).optional(),
  /** The micro batch of a rank. */
  perDeviceTrainBatchSize: positiveInt.default(8),
  perDeviceEvalBatchSize: positiveInt.default(8),
  /** Micro batches of one optimizer step. */
  gradientAccumulationSteps: positiveInt.default(1),
  numTrainEpochs: z.number().positive().default(3),
  /** Overrides numTrainEpochs. */
  maxSteps: positiveInt.optional(),
  learningRate: z.number().nonnegative().default(5e-5),
  weightDecay: z.number().nonnegative().default(0),
  adamBeta1: fraction.default(0.9),
  adamBeta2: fraction.default(0.999),
  adamEpsilon: z.number().positive().default(1e-8),
  /** Clips the global gradient norm; 0 = off. */
  maxGradNorm: z.number().nonnegative().default(1),
  lrSchedulerType: z
    .enum(['linear', 'cosine', 'constant', 'constant_with_warmup'])
    .default('linear'),
  warmupSteps: z.number().int().nonnegative().default(0),
  /** Share of all steps; `warmupSteps` wins. */
  warmupRatio: fraction.default(0),
  loggingSteps: positiveInt.default(10),
  evalStrategy: interval.default('no'),
  /** With evalStrategy "steps"; absent: `loggingSteps`. */
  evalSteps: positiveInt.optional(),
  saveStrategy: interval.default('steps'),
  saveSteps: positiveInt.default(500),
  /** Oldest checkpoints beyond this number are deleted. */
  saveTotalLimit: positiveInt.optional(),
  /**
   * A checkpoint is written while the next step computes: the update waits until the shard has been read, and
   * the checkpoint becomes loadable beside it. Nothing is copied.
   */
  asyncSave: z.boolean().default(false),
  /** Checkpoints leave out parameters that training does not change, as DeepSpeed's exclude_frozen_parameters. */
  excludeFrozenParameters: z.boolean().default(false),
  /** 16-bit parameters and gradients with fp32 master weights; `bf16` and `fp16` of a config win. */
  bf16: z.boolean().default(false),
  fp16: z.boolean().default(false),
  /**
   * Activations are computed again in backward instead of being kept: of each segment (a layer), or of each so
   * many. `activation_checkpointing.number_checkpoints` of a config wins.
   */
  gradientCheckpointing: z.union([z.boolean(), positiveInt]).default(false),
  /**
   * What computes the model: the processor (`cpu`), or a GPU through WebGPU, which has none of the fused operators:
   * they run as plain ONNX there.
   */
  executionProvider: z.enum(['cpu', 'webgpu']).default('cpu'),
  seed: z.number().int().nonnegative().default(42),
  /** Seed of the sampling order; absent: `seed`. */
  dataSeed: z.number().int().nonnegative().optional(),
  /** Leaves out an epoch's last global batch when it is not full. */
  dataloaderDropLast: z.boolean().default(false),
  /** Sequence lengths are rounded up to a multiple of this. Absent: 8, or `sparse_attention.block` of a config. */
  padToMultipleOf: positiveInt.optional(),
  loadBestModelAtEnd: z.boolean().default(false),
  /** A metric of `evaluate()`; `eval_` may be left out. */
  metricForBestModel: z.string().default('eval_loss'),
  greaterIsBetter: z.boolean().default(false),
  /** Event files that are written under outputDir. */
  reportTo: z.array(z.enum(['tensorboard', 'csv'])).default(['tensorboard', 'csv']),
  /** No progress bar, nor the lines that stand for it; evaluation lines and the summary stay. */
  disableTqdm: z.boolean().default(false),
  /** Writes a Perfetto trace of the first steps to outputDir. */
  traceSteps: z.number().int().nonnegative().default(0),
});

/** The Trainer's arguments as one writes them: only `outputDir` is needed. */
export type TrainingArguments = z.input<typeof trainingArgumentsSchema>;

/** The arguments with every default filled in, as `trainer.args` and callbacks have them. */
export type ResolvedArguments = z.output<typeof trainingArgumentsSchema>;

/** Validates arguments; every problem is reported at once, with the nearest name for a misspelt one. */
export function parseArguments(input: TrainingArguments): ResolvedArguments {
  const parsed = trainingArgumentsSchema.safeParse(input);
  const names = Object.keys(trainingArgumentsSchema.shape);
  const problems = parsed.success
    ? []
    : parsed.error.issues.flatMap((issue) => describeIssue(issue, input, names));
  const args = parsed.data;
  if (args?.evalStrategy === 'steps' && args.evalSteps === undefined) {
    args.evalSteps = args.loggingSteps;
  }
  if (args?.evalSteps !== undefined && args.evalStrategy !== 'steps') {
    problems.push(`evalSteps needs evalStrategy "steps", got "${args.evalStrategy}"`);
  }
  if (args?.loadBestModelAtEnd && args.evalStrategy === 'no') {
    problems.push('loadBestModelAtEnd needs evalStrategy "steps" or "epoch"');
  }
  if (args?.loadBestModelAtEnd && args.saveStrategy !== args.evalStrategy) {
    problems.push(
      `loadBestModelAtEnd needs the same saveStrategy and evalStrategy, got "${args.saveStrategy}" and "${args.evalStrategy}"`,
    );
  }
  if (
    args?.loadBestModelAtEnd &&
    args.saveStrategy === 'steps' &&
    args.evalStrategy === 'steps' &&
    args.saveSteps % args.evalSteps! !== 0
  ) {
    problems.push(
      `loadBestModelAtEnd needs saveSteps to be a multiple of evalSteps, got ${args.saveSteps} and ${args.evalSteps}: only an evaluated checkpoint can be the best`,
    );
  }
  if (args?.bf16 && args.fp16) problems.push('bf16 and fp16 exclude each other');
  if (problems.length > 0 || !args) {
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      `the Trainer's arguments are not valid:\n  ${problems.join('\n  ')}`,
      { data: { problems } },
    );
  }
  return args;
}

function isStrategy(value: unknown): boolean {
  const { name, apply } = (value ?? {}) as Partial<StrategyPlugin>;
  return typeof name === 'string' && typeof apply === 'function';
}

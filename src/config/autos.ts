/**
 * What a host trainer's arguments say about config keys. They replace "auto", and an argument that
 * the user gave must agree with a value that the user wrote: both were meant.
 */

export interface AutoValue {
  value: unknown;
  /** The argument it comes from, as the user knows it. */
  from: string;
  /** The user gave the argument; a default of the host never contradicts a config. */
  given: boolean;
}

/** By dotted config path. */
export type Autos = Readonly<Record<string, AutoValue>>;

/** Trainer arguments that meet config keys. All optional: what is absent fills nothing. */
export interface TrainerArguments {
  perDeviceTrainBatchSize?: number | undefined;
  gradientAccumulationSteps?: number | undefined;
  maxGradNorm?: number | undefined;
  learningRate?: number | undefined;
  adamBeta1?: number | undefined;
  adamBeta2?: number | undefined;
  adamEpsilon?: number | undefined;
  weightDecay?: number | undefined;
  warmupSteps?: number | undefined;
  dataloaderDropLast?: boolean | undefined;
  fp16?: boolean | undefined;
  bf16?: boolean | undefined;
}

/** What only the host can compute, once model and dataset are known. */
export interface TrainerFacts {
  worldSize: number;
  totalSteps?: number | undefined;
  hiddenSize?: number | undefined;
}

/**
 * The autos of a Hugging Face shaped trainer.
 *
 * @param given arguments that the user wrote
 * @param defaults the host's values for the rest
 * @param facts what the host has computed so far
 */
export function trainerAutos(
  given: TrainerArguments,
  defaults: TrainerArguments,
  facts: TrainerFacts,
): Autos {
  const autos: Record<string, AutoValue> = {};
  const args = { ...defaults, ...withoutUndefined(given) };
  const wasGiven = (...names: (keyof TrainerArguments)[]) =>
    names.some((name) => given[name] !== undefined);

  function fill(path: string, name: keyof TrainerArguments, value: unknown = args[name]) {
    if (value !== undefined) autos[path] = { value, from: name, given: wasGiven(name) };
  }

  const { perDeviceTrainBatchSize: micro, gradientAccumulationSteps: accumulation } = args;
  fill('train_micro_batch_size_per_gpu', 'perDeviceTrainBatchSize');
  fill('gradient_accumulation_steps', 'gradientAccumulationSteps');
  if (micro !== undefined && accumulation !== undefined) {
    autos.train_batch_size = {
      value: micro * accumulation * facts.worldSize,
      from: `perDeviceTrainBatchSize × gradientAccumulationSteps × ${facts.worldSize} ranks`,
      given: wasGiven('perDeviceTrainBatchSize') && wasGiven('gradientAccumulationSteps'),
    };
  }
  fill('dataloader_drop_last', 'dataloaderDropLast');
  fill('gradient_clipping', 'maxGradNorm');
  fill('optimizer.params.lr', 'learningRate');
  if (args.adamBeta1 !== undefined && args.adamBeta2 !== undefined) {
    autos['optimizer.params.betas'] = {
      value: [args.adamBeta1, args.adamBeta2],
      from: 'adamBeta1 and adamBeta2',
      given: wasGiven('adamBeta1', 'adamBeta2'),
    };
  }
  fill('optimizer.params.eps', 'adamEpsilon');
  fill('optimizer.params.weight_decay', 'weightDecay');
  autos['scheduler.params.warmup_min_lr'] = { value: 0, from: 'the Trainer', given: false };
  fill('scheduler.params.warmup_max_lr', 'learningRate');
  // 0 means "no warm-up" to a Trainer; the schedule's own smallest count is 1.
  fill(
    'scheduler.params.warmup_num_steps',
    'warmupSteps',
    args.warmupSteps === undefined ? undefined : Math.max(1, args.warmupSteps),
  );
  fill('fp16.enabled', 'fp16');
  fill('bf16.enabled', 'bf16');
  if (facts.totalSteps !== undefined) {
    autos['scheduler.params.total_num_steps'] = {
      value: facts.totalSteps,
      from: 'the number of optimizer steps',
      given: false,
    };
  }
  if (facts.hiddenSize !== undefined) {
    const size = facts.hiddenSize;
    const sized = (path: string, value: number, from: string) => {
      autos[`zero_optimization.${path}`] = { value, from, given: false };
    };
    sized('reduce_bucket_size', size ** 2, 'the square of the hidden size');
    sized(
      'stage3_prefetch_bucket_size',
      Math.floor(0.9 * size ** 2),
      '0.9 times the square of the hidden size',
    );
    sized('stage3_param_persistence_threshold', 10 * size, '10 times the hidden size');
  }
  return autos;
}

function withoutUndefined<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(
    Object.entries(value).filter(([, entry]) => entry !== undefined),
  ) as Partial<T>;
}

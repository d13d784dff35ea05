import type { DeepSpeedConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { type GradientOwner, type OptimizerStepOwner, Tracer } from '../hooks/index.ts';
import { findOrtLibrary } from '../native/ort-library.ts';
import { openRuntime, type Runtime, type RuntimeOptions } from '../runtime.ts';
import { composeSession, requireOwner, type Session } from '../session.ts';
import { gatherJson } from '../strategies/agree.ts';
import { chooseStrategy } from '../strategies/registry.ts';
import type { ResolvedArguments, TrainingArguments } from './arguments.ts';
import { type BatchSource, createBatchSource, type MicroBatch } from './batch-source.ts';
import type { SavingCheckpoint } from './saving-checkpoint.ts';
import type { Batch } from '../hosts/onnx/batch.ts';
import { byIndex, type Dataset } from './dataset.ts';
import { OnnxHost } from '../hosts/onnx/host.ts';
import type { TrainableModel } from '../hosts/onnx/model.ts';
import { tilingThreshold } from '../strategies/offload/tiling.ts';
import { dropsLast, makeRecipe, type Recipe } from './recipe.ts';
import { DistributedSampler } from './sampler.ts';
import { ScalarSum } from './scalars.ts';

/** Everything that `train`, `evaluate`, `predict` and saving work with; made once, on first use. */
export interface Training {
  readonly args: ResolvedArguments;
  readonly model: TrainableModel;
  readonly runtime: Runtime;
  readonly recipe: Recipe;
  readonly host: OnnxHost;
  readonly session: Session;
  readonly gradients: GradientOwner;
  readonly optimizer: OptimizerStepOwner;
  readonly scalars: ScalarSum;
  readonly tracer: Tracer | undefined;
  /** Null without a training dataset. */
  readonly source: BatchSource | null;
  collate(part: MicroBatch, rows: number): Batch;
  /** The checkpoint that is being written: until it has been read, nothing may change weights or states. */
  saving: SavingCheckpoint | null;
}

export interface SetupRequest {
  model: TrainableModel;
  given: TrainingArguments;
  args: ResolvedArguments;
  trainDataset: Dataset | undefined;
  runtime: RuntimeOptions;
}

export async function setUpTraining(request: SetupRequest): Promise<Training> {
  const { model, args, given, trainDataset } = request;
  const runtime = openRuntime({ ortLibrary: findOrtLibrary().path, ...request.runtime });
  try {
    const { rank, worldSize, run } = runtime;
    await requireSameRequest(runtime, args, trainDataset);
    const { plugin, raw } = chooseStrategy({
      strategy: args.strategy,
      deepspeed: args.deepspeed,
      launcherConfig: run?.deepspeedConfig ?? null,
    });
    const sampling = (microBatchSize: number, microBatches: number) => ({
      microBatchSize,
      microBatches,
      rank,
      worldSize,
      seed: args.dataSeed ?? args.seed,
      shuffle: true,
      dropLast: dropsLast(raw, args),
    });
    const recipe = makeRecipe({
      raw,
      given,
      args,
      worldSize,
      hiddenSize: model.width,
      totalSteps: (size, count) => totalSteps(args, trainDataset, sampling(size, count)),
    });
    const source = trainDataset
      ? createBatchSource(trainDataset, sampling(recipe.microBatchSize, recipe.microBatches))
      : null;
    const padToMultipleOf = args.padToMultipleOf ?? recipe.config?.sparse_attention?.block ?? 8;
    const collateRows = ({ samples, indices }: MicroBatch, rows: number) =>
      model.collate(samples, indices, { rows, padToMultipleOf });
    const first = await firstBatch(source, model);
    const host = new OnnxHost(runtime, model, collateRows(first, recipe.microBatchSize), {
      checkpointEvery: checkpointInterval(args, recipe.config),
      tileAbove: tilingThreshold(recipe.config),
      provider: args.executionProvider === 'cpu' ? undefined : args.executionProvider,
    });
    const tracer = args.traceSteps > 0 ? new Tracer() : undefined;
    const session = await composeSession({
      runtime,
      host,
      plugin,
      config: recipe.config,
      optimizer: recipe.optimizer,
      precision: recipe.precision,
      seed: args.seed,
      ...(tracer && { tracer }),
    });
    const gradients = requireOwner(session, 'gradients');
    await host.bind(session, gradients);
    return {
      args,
      model,
      runtime,
      recipe,
      host,
      session,
      gradients,
      optimizer: requireOwner(session, 'optimizerStep'),
      scalars: new ScalarSum(runtime),
      tracer,
      source,
      collate: collateRows,
      saving: null,
    };
  } catch (error) {
    runtime.close(error instanceof Error ? error.message : String(error));
    throw error;
  }
}

/**
 * Ranks that differ in what decides their steps would wait for each other in vain, or write one
 * checkpoint into several folders: compare before anything is shared.
 */
async function requireSameRequest(
  runtime: Runtime,
  args: ResolvedArguments,
  dataset: Dataset | undefined,
): Promise<void> {
  const own: Record<string, unknown> = {
    ...args,
    strategy: typeof args.strategy === 'object' ? args.strategy.name : args.strategy,
    'trainDataset.length': (dataset && byIndex(dataset)?.length) ?? null,
  };
  const all = await gatherJson(runtime, own);
  for (const [rank, theirs] of all.entries()) {
    for (const key of Object.keys({ ...all[0], ...theirs })) {
      const [first, other] = [JSON.stringify(all[0]![key]), JSON.stringify(theirs[key])];
      if (first === other) continue;
      throw new DeepSpeedError(
        'RANKS_DIFFER',
        `the ranks were given different ${key}: ${first} on rank 0, ${other} on rank ${rank}`,
        {
          fix: 'Give every rank the same arguments and the whole dataset; each rank takes its own rows. Make no names from the time or a random number.',
          data: { key, ranks: [0, rank] },
        },
      );
    }
  }
}

/** How many segments share one activation checkpoint, given how many there are; 0: none has one. */
function checkpointInterval(
  { gradientCheckpointing: asked }: ResolvedArguments,
  config: DeepSpeedConfig | null,
): (segments: number) => number {
  const count = config?.activation_checkpointing.number_checkpoints ?? null;
  return (segments) => (count === null ? Number(asked) : Math.ceil(segments / count));
}

/** The samples whose shape decides what is compiled first. */
async function firstBatch(source: BatchSource | null, model: TrainableModel): Promise<MicroBatch> {
  if (source) {
    for await (const [part] of source.epoch(0, 0)) if (part!.samples.length > 0) return part!;
  }
  return { samples: [...model.example()], indices: [-1] };
}

function totalSteps(
  args: ResolvedArguments,
  dataset: Dataset | undefined,
  sampling: Omit<ConstructorParameters<typeof DistributedSampler>[0], 'length'>,
): number {
  if (args.maxSteps !== undefined) return args.maxSteps;
  if (!dataset) return 1;
  const map = byIndex(dataset);
  if (!map) {
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      'maxSteps is needed with a dataset of unknown length: schedules and progress depend on it',
      { fix: 'Set maxSteps, or give the dataset a length and get(index).' },
    );
  }
  const { stepsPerEpoch } = new DistributedSampler({ ...sampling, length: map.length });
  return Math.max(1, Math.ceil(stepsPerEpoch * args.numTrainEpochs));
}

import { type RawConfig, readConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import {
  type ModelOutline,
  onnxCapabilities,
  outlineModel,
  planModel,
} from '../hosts/onnx/outline.ts';
import { flatLayout, frozenLayout } from '../layout.ts';
import { nearest } from '../nearest.ts';
import { layoutAlignment } from '../strategies/offload/settings.ts';
import { tilingThreshold } from '../strategies/offload/tiling.ts';
import { type Footprint, footprint, totalBytes } from '../strategies/zero/footprint.ts';
import { zeroOptions } from '../strategies/zero/options.ts';
import { trainingArgumentsSchema } from './arguments.ts';
import { makeRecipe, type Recipe } from './recipe.ts';

export interface EstimateRequest {
  /** A parsed Hugging Face config.json. */
  modelConfig: Record<string, unknown>;
  /** Path of a ds_config.json, or its content. */
  deepspeed: string | Record<string, unknown>;
  worldSize: number;
  /** Tokens of a row; default: as many as the model takes. */
  sequenceLength?: number | undefined;
  /** Beginnings of the names of parameters that training does not change. */
  freeze?: readonly string[] | undefined;
}

/** Of stage 3: nothing, the optimizer's states and gradients, or parameters as well. */
export type OnDisk = 'nothing' | 'states' | 'states and parameters';

/** What a rank would hold in one way of training the model. */
export interface EstimateRow {
  stage: number;
  gradientCheckpointing: boolean;
  /** What goes to disk beside what the config sends there. */
  onDisk: OnDisk;
  /** Null where the config cannot be combined with it. */
  bytes: Footprint | null;
  total: number;
  /** Why it cannot. */
  refused?: string;
}

export interface Estimate {
  parameters: number;
  rows: EstimateRow[];
  microBatchSize: number;
  sequenceLength: number;
  storage: string;
  optimizer: string;
}

function nothingBeginsWith(stray: string, names: readonly string[]): DeepSpeedError {
  const near = nearest(stray, names) ?? names[0];
  return new DeepSpeedError(
    'ARGUMENTS_INVALID',
    `freeze: no parameter's name begins with "${stray}"`,
    { fix: `Names are like ${near}.`, data: { names } },
  );
}

/** Stands for the optimizer steps of a run, which memory does not depend on. */
const someSteps = 1000;

/**
 * Bytes a rank by category for every ZeRO stage, and for stage 3 with states or everything on disk, each with and
 * without activation checkpointing. Nothing is approximated: the plans are those that a run would make. The config's other keys hold for all of them.
 *
 * @throws DeepSpeedError as a run with the config and the model's config does, CONFIG_INVALID when the config
 *   goes with no stage, and ARGUMENTS_INVALID for a beginning that no parameter has and a row that the model cannot take
 */
export function estimateMemory(request: EstimateRequest): Estimate {
  const { worldSize, freeze = [] } = request;
  const names: string[] = [];
  const model = AutoModelForCausalLM.fromConfig(request.modelConfig).freeze((name) => {
    names.push(name);
    return freeze.some((beginning) => name.startsWith(beginning));
  });
  const raw = readConfig(request.deepspeed);
  // What a run would refuse is not estimated at another stage.
  recipeOf(raw, worldSize, model.width);
  const sequenceLength = sequenceLengthOf(request, model.maxLength);
  const recipeFor = (stage: number, onDisk: OnDisk): Recipe | DeepSpeedError => {
    try {
      return recipeOf(withStage(raw, stage, onDisk), worldSize, model.width);
    } catch (error) {
      if (error instanceof DeepSpeedError && refusals.has(error.code)) return error;
      throw error;
    }
  };
  const ways = [
    ...[0, 1, 2, 3].map((stage) => ({ stage, onDisk: 'nothing' as const })),
    ...(['states', 'states and parameters'] as const).map((onDisk) => ({ stage: 3, onDisk })),
  ].map((way) => ({ ...way, recipe: recipeFor(way.stage, way.onDisk) }));
  const first = ways.find(({ recipe }) => !(recipe instanceof Error))?.recipe;
  if (!first) throw ways[0]!.recipe;
  const { microBatchSize, precision, optimizer } = first as Recipe;
  const row = { input_ids: new Int32Array(sequenceLength) };
  const batch = model.collate([row], [0], { rows: microBatchSize, padToMultipleOf: 1 });
  const outlines = new Map<number, ModelOutline[]>();
  // Where parameters come from disk, large tables are in tiles.
  const outlinesOf = (recipe: Recipe | Error): ModelOutline[] => {
    const tileAbove = tilingThreshold(recipe instanceof Error ? null : recipe.config);
    const plan = outlines.has(tileAbove) ? null : planModel(model, batch, { tileAbove });
    if (plan) {
      const every = [0, 1];
      outlines.set(
        tileAbove,
        every.map((k) => outlineModel(model, plan, () => k)),
      );
    }
    return outlines.get(tileAbove)!;
  };
  const { parameters } = outlinesOf(first)[0]!; // asked for the names of all of them
  const stray = freeze.find((beginning) => !names.some((name) => name.startsWith(beginning)));
  if (stray !== undefined) throw nothingBeginsWith(stray, names);
  return {
    parameters: flatLayout(parameters, 1).parameterCount,
    // The disk costs most: last.
    rows: [ways.slice(0, 4), ways.slice(4)].flatMap((some) =>
      [false, true].flatMap((gradientCheckpointing) =>
        some.map(({ recipe, ...way }) => {
          const outline = outlinesOf(recipe)[Number(gradientCheckpointing)]!;
          return rowOf(recipe, { ...way, gradientCheckpointing }, outline, worldSize);
        }),
      ),
    ),
    microBatchSize,
    sequenceLength,
    storage: precision.storage,
    optimizer: optimizer.kind,
  };
}

/** @throws DeepSpeedError ARGUMENTS_INVALID */
function sequenceLengthOf({ sequenceLength }: EstimateRequest, most: number): number {
  if (sequenceLength === undefined || sequenceLength <= most) return sequenceLength ?? most;
  throw new DeepSpeedError(
    'ARGUMENTS_INVALID',
    `sequence length ${sequenceLength}: the model takes at most ${most} tokens`,
    { fix: 'Give --seq the length of the samples, or use a longer model.' },
  );
}

const refusals = new Set(['CONFIG_INVALID', 'NOT_AVAILABLE_YET']);

function rowOf(
  recipe: Recipe | Error,
  row: Pick<EstimateRow, 'stage' | 'gradientCheckpointing' | 'onDisk'>,
  outline: ModelOutline,
  worldSize: number,
): EstimateRow {
  if (recipe instanceof Error) return { ...row, bytes: null, total: 0, refused: recipe.message };
  const host = { ...outline, name: 'onnx', capabilities: onnxCapabilities };
  // One machine: --num_procs says nothing of others.
  const ranks = { worldSize, sharesMemory: worldSize > 1 };
  const options = zeroOptions(recipe.config!, host, ranks);
  const alignment = layoutAlignment(options.offload ?? null);
  const bytes = footprint({
    options,
    host,
    layout: flatLayout(outline.parameters, worldSize, alignment),
    frozen: frozenLayout(outline.frozen, worldSize, alignment),
    worldSize,
    optimizer: recipe.optimizer,
    precision: recipe.precision,
  });
  return { ...row, bytes, total: totalBytes(bytes) };
}

function recipeOf(raw: RawConfig, worldSize: number, hiddenSize: number): Recipe {
  const given = { outputDir: '.' };
  const args = trainingArgumentsSchema.parse(given);
  return makeRecipe({ raw, given, args, worldSize, hiddenSize, totalSteps: () => someSteps });
}

/** What a config without sub-groups of its own gets when states go to disk: elements, 64 MiB a buffer. */
const subGroupSize = 16_777_216;

/** The config at another stage, without the offloading that this stage does not know. */
function withStage(raw: RawConfig, stage: number, onDisk: OnDisk): RawConfig {
  const { offload_param, offload_optimizer, ...zero } = (raw.values.zero_optimization ??
    {}) as Record<string, unknown>;
  const isOnDisk = (offload_optimizer as { device?: unknown } | undefined)?.device === 'nvme';
  // The folder is not looked at.
  const nvme = { device: 'nvme', nvme_path: '.' };
  const moved = {
    sub_group_size: subGroupSize,
    ...zero,
    stage,
    offload_optimizer: isOnDisk ? offload_optimizer : { ...nvme, buffer_count: 10 },
    ...(onDisk === 'states and parameters' && { offload_param: { ...nvme, max_in_cpu: 0 } }),
  };
  const kept = {
    ...zero,
    stage,
    ...(stage === 3 && offload_param !== undefined && { offload_param }),
    ...(stage > (isOnDisk ? 2 : 0) && offload_optimizer !== undefined && { offload_optimizer }),
  };
  const zero_optimization = onDisk === 'nothing' ? kept : moved;
  return { ...raw, values: { ...raw.values, zero_optimization } };
}

/**
 * The cheapest way of training that fits: stages 0 to 2 send the same, stage 3 half as much again, activation
 * checkpointing computes a third more, and a disk is slower than memory.
 *
 * @param share bytes that a rank may take
 * @returns null when none fits
 */
export function recommend(rows: readonly EstimateRow[], share: number): EstimateRow | null {
  return rows.find(({ bytes, total }) => bytes !== null && total <= share) ?? null;
}

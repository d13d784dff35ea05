import { readConfig, type RawConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import {
  type ModelOutline,
  onnxCapabilities,
  outlineModel,
  planModel,
} from '../hosts/onnx/outline.ts';
import { flatLayout } from '../layout.ts';
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
}

/** What a rank would hold in one way of training the model. */
export interface EstimateRow {
  stage: number;
  gradientCheckpointing: boolean;
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

/** Stands for the optimizer steps of a run, which memory does not depend on. */
const someSteps = 1000;

/**
 * Bytes a rank by category for every ZeRO stage, with and without activation checkpointing. Nothing is
 * approximated: the plans are those that a run would make. The config's other keys hold for all of them.
 *
 * @throws DeepSpeedError as reading the config and the model's config do, and CONFIG_INVALID when the config
 *   goes with no stage
 */
export function estimateMemory(request: EstimateRequest): Estimate {
  const { worldSize } = request;
  const model = AutoModelForCausalLM.fromConfig(request.modelConfig);
  const raw = readConfig(request.deepspeed);
  const sequenceLength = request.sequenceLength ?? model.maxLength;
  const recipes = [0, 1, 2, 3].map((stage) => {
    try {
      return recipeOf(withStage(raw, stage), worldSize, model.width);
    } catch (error) {
      if (error instanceof DeepSpeedError && refusals.has(error.code)) return error;
      throw error;
    }
  });
  const first = recipes.find((one) => !(one instanceof Error));
  if (!first) throw recipes[0];
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
  return {
    parameters: flatLayout(outlinesOf(first)[0]!.parameters, 1).parameterCount,
    rows: [false, true].flatMap((checkpoints) =>
      recipes.map((recipe, stage) =>
        rowOf(recipe, stage, checkpoints, outlinesOf(recipe)[Number(checkpoints)]!, worldSize),
      ),
    ),
    microBatchSize,
    sequenceLength,
    storage: precision.storage,
    optimizer: optimizer.kind,
  };
}

const refusals = new Set(['CONFIG_INVALID', 'NOT_AVAILABLE_YET']);

function rowOf(
  recipe: Recipe | Error,
  stage: number,
  gradientCheckpointing: boolean,
  outline: ModelOutline,
  worldSize: number,
): EstimateRow {
  const row = { stage, gradientCheckpointing };
  if (recipe instanceof Error) return { ...row, bytes: null, total: 0, refused: recipe.message };
  const host = { ...outline, name: 'onnx', capabilities: onnxCapabilities };
  const options = zeroOptions(recipe.config!, host, worldSize);
  const bytes = footprint({
    options,
    host,
    layout: flatLayout(outline.parameters, worldSize, layoutAlignment(options.offload ?? null)),
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

/** The config at another stage, without the offloading that this stage does not know. */
function withStage(raw: RawConfig, stage: number): RawConfig {
  const { offload_param, offload_optimizer, ...zero } = (raw.values.zero_optimization ??
    {}) as Record<string, unknown>;
  const onDisk = (offload_optimizer as { device?: unknown } | undefined)?.device === 'nvme';
  return {
    ...raw,
    values: {
      ...raw.values,
      zero_optimization: {
        ...zero,
        stage,
        ...(stage === 3 && offload_param !== undefined && { offload_param }),
        ...(stage > (onDisk ? 2 : 0) && offload_optimizer !== undefined && { offload_optimizer }),
      },
    },
  };
}

/**
 * The cheapest way of training that fits: stages 0 to 2 send the same, stage 3 half as much again, and activation
 * checkpointing computes a third more.
 *
 * @param share bytes that a rank may take
 * @returns null when none fits
 */
export function recommend(rows: readonly EstimateRow[], share: number): EstimateRow | null {
  return rows.find(({ bytes, total }) => bytes !== null && total <= share) ?? null;
}

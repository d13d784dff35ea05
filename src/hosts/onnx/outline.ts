import { narrowParameters } from '../../graph/narrow.ts';
import { type Binding, planTraining, type TrainingPlan } from '../../graph/plan.ts';
import type {
  AttentionBlocks,
  Capability,
  FrozenParameter,
  HostParameter,
  SelfAttention,
} from '../../hooks/index.ts';
import type { Batch } from './batch.ts';
import { lossSum, type TrainableModel } from './model.ts';
import { Recomputation } from './recomputation.ts';
import { residualStreams } from './residual-stream.ts';
import { Timeline } from './timeline.ts';

/** Biases and norms get no weight decay, as everywhere in the field. */
export const decayGroup = 0;
export const noDecayGroup = 1;

/** What the `onnx` host can do. */
export const onnxCapabilities: ReadonlySet<Capability> = new Set<Capability>([
  'segments',
  'layerSkipping',
  'attentionReplacement',
  'gatheredParameters',
  'activationCheckpointing',
]);

/** What is known of a model's training before any memory is taken. */
export interface ModelOutline {
  segments: readonly string[];
  parameters: readonly HostParameter[];
  skippable: readonly number[];
  frozen: readonly FrozenParameter[];
  /** Of a training step of the plan's batch. */
  activationBytes: number;
  recomputation: Recomputation;
}

/**
 * Of one table. Two tiles of 32, the one in use and the next, are a sixteenth of it: smaller ones save less than they
 * cost, which is programs of their own for every pass and some 100 bytes for each of a batch's tokens.
 */
const mostTiles = 32;

export interface PlanModelOptions {
  fuse?: boolean;
  /** Leaves only those operators of ours that work in the host's memory. */
  lowerArithmetic?: boolean;
  attentionBlocks?: ((attention: SelfAttention) => AttentionBlocks) | undefined;
  /** Embeddings and heads of more elements are cut into tiles of rows that have at most half as many, 32 a table. */
  tileAbove?: number | undefined;
}

/** Differentiates and cuts the model's graph for the shapes of a batch. */
export function planModel(
  model: TrainableModel,
  batch: Batch,
  {
    fuse = true,
    lowerArithmetic = false,
    attentionBlocks: blocksOf,
    tileAbove = Infinity,
  }: PlanModelOptions = {},
): TrainingPlan {
  const graph = model.graph(batch);
  const { longest } = batch;
  const known = new Set(model.parameters.map(({ name }) => name));
  return planTraining(graph, {
    inputShapes: Object.fromEntries(
      graph.inputs.map(({ name, shape }) => [
        name,
        batch.feeds[name]?.dims ?? (shape as readonly number[]),
      ]),
    ),
    trainable: (name) => known.has(name) && model.isTrainable(name),
    bound: (name) => known.has(name),
    lossOutput: lossSum,
    keepOutputs: model.outputs,
    fuse,
    lower: lowerArithmetic ? 'arithmetic' : undefined,
    attentionBlocks:
      blocksOf && ((attention) => blocksOf({ ...attention, ...(longest && { longest }) })),
    tileRows: (_, [rows, width]) => {
      if (rows! * width! <= tileAbove) return null;
      return Math.max(Math.floor(tileAbove / 2 / width!), Math.ceil(rows! / mostTiles));
    },
  });
}

/** The model's parameters, with tiles in the place of the tables that a plan has cut. */
function planned(
  { parameters }: TrainableModel,
  { tiles }: TrainingPlan,
): Pick<HostParameter, 'name' | 'shape' | 'part'>[] {
  return parameters.flatMap((parameter) => {
    const own = tiles.filter(({ of }) => of === parameter.name);
    if (own.length === 0) return [parameter];
    const width = parameter.shape[1]!;
    return own.map(({ name, of, row, rows }) => ({
      name,
      shape: [rows, width],
      part: { of, shape: parameter.shape, start: row * width },
    }));
  });
}

/** @param checkpointEvery segments of one activation checkpoint, given how many there are; 0: none */
export function outlineModel(
  model: TrainableModel,
  plan: TrainingPlan,
  checkpointEvery: (segments: number) => number,
): ModelOutline {
  const recomputation = new Recomputation(plan.segments, checkpointEvery(plan.segments.length));
  const { parameters, frozen } = orderParameters(model, plan, recomputation);
  return {
    segments: plan.segments.map((segment) => segment.name),
    parameters,
    skippable: [...residualStreams(plan).keys()],
    frozen,
    activationBytes: new Timeline(plan, 'training', recomputation).arena().bytes,
    recomputation,
  };
}

/**
 * Parameters that backward writes a gradient for, in the order in which it completes them; within a
 * segment those with weight decay first, so that the optimizer walks long stretches. The others, in the same order,
 * are frozen: those that no segment reads come last.
 */
function orderParameters(
  model: TrainableModel,
  plan: TrainingPlan,
  recomputation: Recomputation,
): Pick<ModelOutline, 'parameters' | 'frozen'> {
  const users = new Map<string, number[]>();
  plan.segments.forEach((segment, index) => {
    for (const name of segment.parameters) {
      const list = users.get(name) ?? [];
      list.push(index);
      users.set(name, list);
    }
  });
  const reads = (name: string, binding: Binding | null) =>
    binding?.inputs.some(({ kind, actual }) => kind === 'parameter' && actual === name) ?? false;
  const readBackward = (name: string) =>
    plan.segments.flatMap(({ backward }, segment) =>
      reads(name, backward) ||
      recomputation.before(segment).some((other) => reads(name, plan.segments[other]!.forward))
        ? [segment]
        : [],
    );
  const written = new Set(
    plan.segments.flatMap(({ backward }) =>
      (backward?.inputs ?? [])
        .filter(({ kind }) => kind === 'first')
        .map(({ parameter }) => parameter!),
    ),
  );
  const narrow = narrowParameters(plan);
  const ordered = planned(model, plan)
    .map(({ name, shape, part }) => ({
      name,
      shape,
      ...(part && { part }),
      ...(narrow.has(name) && { takes16Bits: true }),
      segments: users.get(name) ?? [],
      readBackward: readBackward(name),
      group: shape.length < 2 ? noDecayGroup : decayGroup,
    }))
    .sort((a, b) => (b.segments[0] ?? -1) - (a.segments[0] ?? -1) || a.group - b.group);
  return {
    parameters: ordered.filter(({ name }) => written.has(name)),
    frozen: ordered
      .filter(({ name }) => !written.has(name))
      .map(({ group: _, ...parameter }) => parameter),
  };
}

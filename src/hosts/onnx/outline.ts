import { type Binding, planTraining, type TrainingPlan } from '../../graph/plan.ts';
import type {
  AttentionBlocks,
  Capability,
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
  frozen: readonly { name: string; shape: readonly number[] }[];
  /** Of a training step of the plan's batch. */
  activationBytes: number;
  recomputation: Recomputation;
}

export interface PlanModelOptions {
  fuse?: boolean;
  attentionBlocks?: ((attention: SelfAttention) => AttentionBlocks) | undefined;
}

/** Differentiates and cuts the model's graph for the shapes of a batch. */
export function planModel(
  model: TrainableModel,
  batch: Batch,
  { fuse = true, attentionBlocks: blocksOf }: PlanModelOptions = {},
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
    attentionBlocks:
      blocksOf && ((attention) => blocksOf({ ...attention, ...(longest && { longest }) })),
  });
}

/** @param checkpointEvery segments of one activation checkpoint, given how many there are; 0: none */
export function outlineModel(
  model: TrainableModel,
  plan: TrainingPlan,
  checkpointEvery: (segments: number) => number,
): ModelOutline {
  const recomputation = new Recomputation(plan.segments, checkpointEvery(plan.segments.length));
  const parameters = orderParameters(model, plan, recomputation);
  const trained = new Set(parameters.map(({ name }) => name));
  return {
    segments: plan.segments.map((segment) => segment.name),
    parameters,
    skippable: [...residualStreams(plan).keys()],
    frozen: model.parameters.filter(({ name }) => !trained.has(name)),
    activationBytes: new Timeline(plan, 'training', recomputation).arena().bytes,
    recomputation,
  };
}

/**
 * Parameters that backward writes a gradient for, in the order in which it completes them; within a
 * segment those with weight decay first, so that the optimizer walks long stretches.
 */
function orderParameters(
  model: TrainableModel,
  plan: TrainingPlan,
  recomputation: Recomputation,
): HostParameter[] {
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
  return model.parameters
    .filter(({ name }) => written.has(name))
    .map(({ name, shape }) => ({
      name,
      shape,
      segments: users.get(name)!,
      readBackward: readBackward(name),
      group: shape.length < 2 ? noDecayGroup : decayGroup,
    }))
    .sort((a, b) => b.segments[0]! - a.segments[0]! || a.group - b.group);
}

/**
 * From a model's graph to everything a host needs to train it segment by segment: programs, what each
 * segment binds to them, and the type and shape of every bound value.
 *
 * A value keeps its actual name everywhere it is bound; two bindings with one actual name are the same
 * memory. An activation that several later segments read gets one gradient from each: `grad.<value>`
 * from the only one, `grad.<value>@<segment>` from each of several, which the backward graph of the
 * segment that made the value adds, earliest reader first.
 */
import { DeepSpeedError } from '../errors.ts';
import { graphKey } from './canonical.ts';
import type { Program } from './compile.ts';
import { Emitter } from './emitter.ts';
import { activeValues, gradientName } from './gradient/index.ts';
import { requireGradientRules } from './gradient/missing-rule.ts';
import type { RecomputePolicy } from './gradient/recompute.ts';
import type { DataType, Graph } from './ir.ts';
import { makeConcrete } from './passes/concrete.ts';
import { fuse } from './passes/fuse/index.ts';
import {
  type AttentionBlocks,
  type SelfAttention,
  type SparseAttention,
  sparsifyAttention,
} from './passes/sparse-attention.ts';
import { type Tile, type TileRows, tileTables } from './passes/tile-tables.ts';
import { Planner } from './planner.ts';
import { separateRandomness } from './randomness.ts';
import { divide } from './segments.ts';

export type { Program } from './compile.ts';

export interface PlanOptions {
  /** Concrete shapes of the inputs; those that the graph fixes may be left out. */
  inputShapes: Readonly<Record<string, readonly number[]>>;
  /** Asked for each float initializer: is it a parameter that training changes? */
  trainable: (name: string) => boolean;
  /** Initializers whose values the host binds even when they are frozen; others may become constants. */
  bound?: ((name: string) => boolean) | undefined;
  /** The graph output whose gradient the host provides as `grad.<lossOutput>`. Default `loss`. */
  lossOutput?: string | undefined;
  /** Outputs that inference also computes, such as `logits`. */
  keepOutputs?: readonly string[] | undefined;
  /** Fused `deepspeed` operators. Default true. */
  fuse?: boolean | undefined;
  /** Plain ONNX only (passes/lower). Default false. */
  lower?: boolean | undefined;
  /** The blocks that a self-attention of the model computes. Absent: all of them. */
  attentionBlocks?: ((attention: SelfAttention) => AttentionBlocks) | undefined;
  /** What backward computes again instead of having it saved. Default: cheap arithmetic. */
  recompute?: RecomputePolicy | undefined;
  /** Logits of more bytes are computed by chunks, and once more in backward. Default 512 MiB; 0 for tiles of a head. */
  maxLogitsBytes?: number | undefined;
  /** Trainable tables that are cut into tiles of rows, each a parameter and a segment. Default: none. */
  tileRows?: TileRows | undefined;
}

export type ValueKind =
  | 'parameter'
  | 'activation' // crosses segments
  | 'side' // from the prologue
  | 'input'
  | 'saved' // from a segment's forward to its backward
  | 'output' // of the whole graph
  | 'grad'
  | 'buffer' // gradient buffer of a parameter, written in place
  | 'first' // int32 [1]: not 0 = the buffer's old content is void
  | 'token' // int32 [1] without meaning
  | 'updated' // lowered plans: a gradient buffer's new content
  | 'mask'; // lowered plans: kept elements of a dropout, bool

export interface PlannedValue {
  /** Name in the program's graph. */
  formal: string;
  /** Name in the plan. */
  actual: string;
  kind: ValueKind;
  dtype: DataType;
  shape: readonly number[];
  /** For buffer, first, token and updated: the parameter. */
  parameter?: string;
  /** For first: no segment before this one in backward order writes the parameter's gradient. */
  firstUse?: boolean;
}

export interface Binding {
  inputs: PlannedValue[];
  outputs: PlannedValue[];
}

export interface PlannedSegment {
  name: string;
  /** Key into `programs`. */
  program: string;
  /** Actual names of the parameters it reads, trainable or not. */
  parameters: string[];
  forward: Binding;
  backward: Binding | null;
  inference: Binding;
}

export interface TrainingPlan {
  /** Equal for plans whose prologue and segments are equal. */
  key: string;
  /** Runs once a batch, before the segments. */
  prologue?: Binding & { graph: Graph };
  programs: Map<string, Program>;
  /** In forward order. */
  segments: PlannedSegment[];
  /** Graph inputs that the host feeds. */
  inputs: { name: string; dtype: DataType; shape: readonly number[] }[];
  /** Gradients that the host provides. */
  seeds: string[];
  parameters: {
    name: string;
    dtype: DataType;
    shape: readonly number[];
    trainable: boolean;
    /** Indices of the segments that use it, ascending. */
    segments: number[];
  }[];
  /** One line for each fusion: what was replaced by what, and how often. */
  replaced: string[];
  /** Parameters that stand for rows of a table of the graph. */
  tiles: readonly Tile[];
  /** What `attentionBlocks` was asked for, and what stays dense; null without it. */
  sparseAttention: SparseAttention | null;
}

/**
 * Plans the training of a graph whose float initializers are parameters. Throws what shape inference
 * throws, GRADIENT_MISSING for an operator without a rule between a trainable parameter and the loss,
 * and GRAPH_INVALID when the loss depends on no trainable parameter.
 */
export function planTraining(graph: Graph, options: PlanOptions): TrainingPlan {
  const loss = options.lossOutput ?? 'loss';
  const source = withOutputs(graph, [loss, ...(options.keepOutputs ?? [])]);
  const isBound = (name: string) => options.trainable(name) || (options.bound?.(name) ?? false);
  const concrete = makeConcrete(source, options.inputShapes, isBound);
  const trainable = new Set([...concrete.parameters].filter(options.trainable));
  const fused =
    options.fuse === false
      ? { ...concrete, replaced: [], refused: new Map<string, string>() }
      : fuse(concrete, trainable);
  const sparse =
    options.attentionBlocks && sparsifyAttention(fused, options.attentionBlocks, fused.refused);
  const { tiles, ...typed } = tileTables(
    sparse ?? fused,
    trainable,
    (options.fuse !== false && options.tileRows) || (() => null),
  );
  const withTiles = (names: ReadonlySet<string>) =>
    new Set([...names].flatMap((name) => tiles.get(name)?.map((tile) => tile.name) ?? [name]));
  const parameters = withTiles(concrete.parameters);
  const trained = withTiles(trainable);
  const active = activeValues(typed.graph, typed.types, [...trained], [loss]);
  if (!active.has(loss)) throw nothingToTrain(loss);
  requireGradientRules(typed.graph, active, [...trained]);

  const emit = new Emitter(typed.types, 'plan/');
  const division = separateRandomness(divide(typed, parameters, loss), emit);
  const constants = new Map([...typed.graph.initializers, ...emit.constants]);
  const planner = new Planner(typed, parameters, trained, active, division, constants);
  const segments = planner.segments(loss, options);
  const prologue = planner.prologue(segments);
  const used = new Set(
    [...segments.flatMap(({ forward, inference }) => [...forward.inputs, ...inference.inputs])]
      .filter(({ kind }) => kind === 'input' || kind === 'mask')
      .map(({ actual }) => actual)
      .concat(prologue?.inputs.map(({ actual }) => actual) ?? []),
  );
  const masks = segments.flatMap(({ forward }) => forward.inputs.filter((v) => v.kind === 'mask'));
  const inputs = [
    ...typed.graph.inputs.map(({ name }) => planner.info(name)),
    ...masks.map(({ actual, dtype, shape }) => ({ name: actual, dtype, shape })),
  ].filter(({ name }) => used.has(name) && !parameters.has(name));
  return {
    key: graphKey(prologue?.graph ?? typed.graph, segments),
    ...(prologue && { prologue }),
    programs: planner.programs,
    segments,
    inputs,
    seeds: [gradientName(loss)],
    parameters: planner.parameters(segments),
    replaced: [
      ...fused.replaced,
      ...[...tiles].map(([name, { length }]) => `${name}: ${length} tiles of rows`),
    ],
    tiles: [...tiles.values()].flat(),
    sparseAttention: sparse?.attention ?? null,
  };
}

function withOutputs(graph: Graph, wanted: readonly string[]): Graph {
  const outputs = wanted.map((name) => {
    const found = graph.outputs.find((output) => output.name === name);
    if (found !== undefined) return found;
    const known = graph.outputs.map((output) => `'${output.name}'`).join(', ');
    throw new DeepSpeedError('GRAPH_INVALID', `the graph has no output '${name}'`, {
      fix: `Choose among its outputs: ${known}.`,
      data: { output: name },
    });
  });
  return { ...graph, outputs };
}

function nothingToTrain(loss: string): DeepSpeedError {
  return new DeepSpeedError(
    'GRAPH_INVALID',
    `output '${loss}' does not depend on any trainable parameter through differentiable operators`,
    { fix: 'Name the right loss output, and leave at least one parameter trainable.' },
  );
}

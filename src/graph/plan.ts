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
import { Emitter } from './emitter.ts';
import { activeValues, gradientName } from './gradient/index.ts';
import { requireGradientRules } from './gradient/missing-rule.ts';
import type { Graph } from './ir.ts';
import { makeConcrete } from './passes/concrete.ts';
import { fuse } from './passes/fuse/index.ts';
import { sparsifyAttention } from './passes/sparse-attention.ts';
import { tileTables } from './passes/tile-tables.ts';
import type { PlanOptions, TrainingPlan } from './planned.ts';
import { Planner } from './planner.ts';
import { separateRandomness } from './randomness.ts';
import { divide } from './segments.ts';

export type { Program } from './compile.ts';
export type * from './planned.ts';

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
    lowered: options.lower ? planner.lowered : null,
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

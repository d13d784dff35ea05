/**
 * Reverse-mode differentiation of a graph: reachability decides which values need a gradient, one rule
 * per operator emits it, gradients of a value that is read several times are summed, and what backward
 * reads of forward is saved or computed again.
 */
import { Emitter, isFloat } from '../emitter.ts';
import type { Graph, ValueInfo, ValueType } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import type { TypedGraph } from '../passes/rewrite.ts';
import { readsOf, valuesLeadingTo, writesOf } from '../topology.ts';
import { missingRule } from './missing-rule.ts';
import { ParameterGradients } from './parameters.ts';
import { planRecomputation, recomputeDefault, type RecomputePolicy } from './recompute.ts';
import { type Gradient, RuleContext, type WrittenGradient } from './rule.ts';
import { scatterRows } from './scatter.ts';
import { gradientRule } from './table.ts';
import { unbroadcast } from './unbroadcast.ts';

type DenseGradient = Exclude<Gradient, WrittenGradient | undefined>;

export interface DifferentiateOptions {
  /** Graph inputs whose gradients are accumulated into bound buffers. */
  parameters: readonly string[];
  /** Graph inputs whose gradients are outputs of the backward graph. */
  activations: readonly string[];
  /**
   * Outputs whose gradients arrive from outside: output → the names under which they do. Several are
   * added in the order given.
   */
  outputGradients: ReadonlyMap<string, readonly string[]>;
  policy?: RecomputePolicy;
}

export interface Differentiated {
  /** The graph with the saved values as further outputs. */
  forward: Graph;
  /**
   * Inputs: the output gradients; saved values; those inputs and outputs of forward that it reads;
   * `gradient_buffer.<p>` and `first.<p>` for each parameter p with a gradient. Outputs: `grad.<input>`
   * for activations and `token.<p>`. Null when no gradient reaches anything.
   */
  backward: TypedGraph | null;
  /** Added outputs of forward, in forward order. */
  saved: string[];
  savedBytes: number;
  /** Bytes that are computed again instead of being saved. */
  sparedBytes: number;
}

/** Name of the backward graph's output with the gradient of a graph input. */
export function gradientName(input: string): string {
  return `grad.${input}`;
}

export function differentiate(source: TypedGraph, options: DifferentiateOptions): Differentiated {
  const types = new Map(source.types);
  const graph = withDropoutMasks(source.graph, types);
  const { outputGradients, policy = recomputeDefault } = options;
  const sources = [...options.parameters, ...options.activations];
  const needed = activeValues(graph, types, sources, outputGradients.keys());

  const emit = new Emitter(types, 'grad/');
  const pending = new Map<string, DenseGradient[]>();
  const contribute = (value: string, gradient: DenseGradient) => {
    const list = pending.get(value);
    if (list) list.push(gradient);
    else pending.set(value, [gradient]);
  };
  for (const [output, names] of outputGradients) {
    if (!needed.has(output)) continue;
    for (const name of names) {
      types.set(name, { dtype: types.get(output)!.dtype, shape: types.get(output)!.shape });
      contribute(output, name);
    }
  }

  const parameters = new Set(options.parameters);
  const accumulations = new ParameterGradients(emit);
  const placeOf = (value: string) =>
    parameters.has(value) ? accumulations.place(value) : undefined;
  const dense = (value: string, gradient: DenseGradient) =>
    typeof gradient === 'string'
      ? unbroadcast(emit, gradient, emit.shape(value))
      : scatterRows(emit, gradient.rows, gradient.indices, emit.shape(value));
  /** The sum of what has arrived for a value; undefined when nothing has. */
  const total = (value: string): string | undefined => {
    const parts = (pending.get(value) ?? []).map((part) => dense(value, part));
    return parts.length === 0 ? undefined : parts.reduce((a, b) => emit.add(a, b));
  };

  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => pending.has(output))) continue;
    if (!node.inputs.some((input) => needed.has(input))) continue;
    const rule = gradientRule(operatorKey(node));
    if (rule === 'constant') continue;
    if (rule === undefined) throw missingRule(graph, node, options.parameters);
    emit.metadata = node.metadata;
    const arriving = node.outputs.map(total);
    const isNeeded = (value: string) => needed.has(value);
    const gradients = rule(new RuleContext(node, emit, arriving, isNeeded, placeOf));
    node.inputs.forEach((input, i) => {
      const gradient = gradients[i];
      if (gradient === undefined || !needed.has(input)) return;
      if (parameters.has(input)) accumulations.add(input, gradient);
      else contribute(input, gradient as DenseGradient); // only a parameter has a place to write to
    });
  }
  emit.metadata = undefined;

  const results = accumulations.tokens();
  for (const activation of options.activations) {
    const gradient = total(activation);
    if (gradient !== undefined) results.set(gradientName(activation), gradient);
  }
  const outputs = nameResults(emit, results);
  if (outputs.length === 0) {
    return { forward: graph, backward: null, saved: [], savedBytes: 0, sparedBytes: 0 };
  }

  const available = new Set([
    ...graph.inputs.map((input) => input.name),
    ...graph.outputs.map((output) => output.name),
    ...graph.initializers.keys(),
    ...emit.constants.keys(),
    ...[...outputGradients.values()].flat(),
    ...accumulations.inputs().map((input) => input.name),
  ]);
  const plan = planRecomputation(graph, types, emit.nodes, available, policy);
  const info = (name: string): ValueInfo => {
    const { dtype, shape } = types.get(name)!;
    return { name, dtype, shape };
  };
  const read = new Set(plan.nodes.flatMap(readsOf));
  const constants = [...graph.initializers, ...emit.constants].filter(([name]) => read.has(name));
  const inputs = [
    ...[...outputGradients.values()].flat().filter((name) => read.has(name)),
    ...graph.inputs.map((input) => input.name).filter((name) => read.has(name)),
    ...graph.outputs.map((output) => output.name).filter((name) => read.has(name)),
    ...plan.saved,
  ].map(info);
  const backward: Graph = {
    name: `${graph.name}.backward`,
    inputs: [...inputs, ...accumulations.inputs()],
    outputs,
    initializers: new Map(constants),
    nodes: plan.nodes,
    valueInfo: new Map(),
  };
  const forward = { ...graph, outputs: [...graph.outputs, ...plan.saved.map(info)] };
  return {
    forward,
    backward: { graph: backward, types },
    saved: plan.saved,
    savedBytes: plan.savedBytes,
    sparedBytes: plan.sparedBytes,
  };
}

/** Values on a differentiable path from a source to an output with a gradient. */
export function activeValues(
  graph: Graph,
  types: ReadonlyMap<string, ValueType>,
  sources: readonly string[],
  outputs: Iterable<string>,
): Set<string> {
  const reached = new Set(sources);
  for (const node of graph.nodes) {
    if (gradientRule(operatorKey(node)) === 'constant') continue;
    if (!readsOf(node).some((input) => reached.has(input))) continue;
    for (const output of writesOf(node)) {
      if (isFloat(types.get(output)!.dtype)) reached.add(output);
    }
  }
  const leading = valuesLeadingTo(graph, outputs);
  return new Set([...reached].filter((value) => leading.has(value)));
}

/** Gives emitted values the names of the backward graph's outputs: output name → value. */
function nameResults(emit: Emitter, results: ReadonlyMap<string, string>): ValueInfo[] {
  const made = new Set(emit.nodes.flatMap(writesOf));
  const names = new Map<string, string>();
  for (const [name, value] of results) {
    // A gradient that arrived from outside, or that serves two inputs, is passed on by a node.
    const fresh = made.has(value) && !names.has(value);
    names.set(fresh ? value : emit.one('Identity', [value], emit.type(value)), name);
  }
  const rename = (value: string) => names.get(value) ?? value;
  for (const node of emit.nodes) {
    node.inputs = node.inputs.map(rename);
    node.outputs = node.outputs.map(rename);
  }
  return [...names].map(([value, name]) => {
    const { dtype, shape } = emit.type(value);
    emit.declare(name, { dtype, shape });
    return { name, dtype, shape };
  });
}

/** ai.onnx Dropout in training mode: its mask becomes an output of the node, for backward. */
function withDropoutMasks(graph: Graph, types: Map<string, ValueType>): Graph {
  const nodes = graph.nodes.map((node) => {
    if (operatorKey(node) !== 'Dropout' || !node.inputs[2] || node.outputs[1]) return node;
    const mask = `${node.outputs[0]}.mask`;
    types.set(mask, { dtype: 'bool', shape: types.get(node.outputs[0]!)!.shape });
    return { ...node, outputs: [node.outputs[0]!, mask] };
  });
  return { ...graph, nodes };
}

/** For tests: a lowered plan run in onnxruntime-node, forward and backward. */
import type { Tensor } from '../ir.ts';
import type { Binding, PlannedValue, TrainingPlan } from '../plan.ts';
import { fromNumbers, numel, zeros } from '../tensor.ts';
import { load, type Runner, type Values } from '../testing.ts';

export interface PlanResult {
  /** Graph outputs by name. */
  outputs: Values;
  /** Gradient of each trainable parameter. */
  gradients: Map<string, Tensor>;
}

/**
 * One forward and backward pass with all gradients of the loss 1. `feeds` holds inputs, parameters and,
 * for dropout, masks. Buffers start as NaN, so that a wrong `first` shows.
 */
export async function trainOnce(plan: TrainingPlan, feeds: Values): Promise<PlanResult> {
  const memory = new Map<string, Tensor>(Object.entries(feeds));
  const sessions = new Map<string, Promise<Runner>>();
  const runBound = async (key: string, binding: Binding, load: () => Promise<Runner>) => {
    if (!sessions.has(key)) sessions.set(key, load());
    const runner = await sessions.get(key)!;
    const values = binding.inputs.map((value) => [value.formal, read(value, memory)] as const);
    const results = await runner(Object.fromEntries(values));
    for (const value of binding.outputs) {
      const target = value.kind === 'updated' ? `gradient_buffer.${value.parameter}` : value.actual;
      memory.set(target, results[value.formal]!);
    }
  };
  const { prologue } = plan;
  if (prologue) await runBound('prologue', prologue, () => load(prologue.graph));
  for (const { program, forward } of plan.segments) {
    const { forward: graph } = plan.programs.get(program)!;
    await runBound(`${program}/forward`, forward, () => load(graph));
  }
  for (const { program, backward } of plan.segments.toReversed()) {
    const { backward: graph } = plan.programs.get(program)!;
    if (graph && backward) await runBound(`${program}/backward`, backward, () => load(graph));
  }
  const outputs = plan.segments.flatMap(({ forward }) => forward.outputs);
  return {
    outputs: Object.fromEntries(
      outputs
        .filter(({ kind }) => kind === 'output')
        .map(({ actual }) => [actual, memory.get(actual)!] as const),
    ),
    gradients: new Map(
      plan.parameters
        .filter(({ trainable }) => trainable)
        .map(({ name }) => [name, memory.get(`gradient_buffer.${name}`)!] as const),
    ),
  };
}

/** The prologue and the inference programs; the graph's outputs by name. */
export async function inferOnce(plan: TrainingPlan, feeds: Values): Promise<Values> {
  const memory = new Map<string, Tensor>(Object.entries(feeds));
  const bindings: [Binding, Runner][] = [];
  if (plan.prologue) bindings.push([plan.prologue, await load(plan.prologue.graph)]);
  for (const { program, inference } of plan.segments) {
    bindings.push([inference, await load(plan.programs.get(program)!.inference)]);
  }
  const outputs: Values = {};
  for (const [binding, runner] of bindings) {
    const values = binding.inputs.map((value) => [value.formal, read(value, memory)] as const);
    const results = await runner(Object.fromEntries(values));
    for (const { formal, actual, kind } of binding.outputs) {
      memory.set(actual, results[formal]!);
      if (kind === 'output') outputs[actual] = results[formal]!;
    }
  }
  return outputs;
}

function read(value: PlannedValue, memory: Map<string, Tensor>): Tensor {
  const known = memory.get(value.actual);
  if (value.kind === 'first') return fromNumbers('int32', [1], [value.firstUse ? 1 : 0]);
  if (known !== undefined) return known;
  const fill = (number: number) =>
    fromNumbers(value.dtype, value.shape, new Array(numel(value.shape)).fill(number));
  if (value.kind === 'buffer') return fill(Number.NaN);
  if (value.kind === 'grad') return fill(1);
  if (value.kind === 'mask') return fill(1);
  if (value.dtype === 'string') return zeros('string', value.shape);
  throw new Error(`nothing has made ${value.kind} ${value.actual}`);
}

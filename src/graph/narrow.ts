/**
 * Parameters that the passes of a plan read in 16 bits. Products widen such a factor as they copy or read it
 * (deepspeed.MatMul), and an embedding's rows are widened after they were looked up: the values are those of
 * the widened parameter, bit for bit, and nobody holds that.
 */
import { dataTypeNumbers } from './codec/types.ts';
import type { DataType, Graph, Node } from './ir.ts';
import { operatorKey } from './operator-key.ts';
import type { PlannedValue, TrainingPlan } from './planned.ts';
import { readsOf } from './topology.ts';

/** The input of an operator that may be in 16 bits. */
const narrowPorts: Record<string, number> = {
  Gather: 0,
  'deepspeed.MatMul': 1,
  'deepspeed.LinearCrossEntropy': 1,
  'deepspeed.LinearCrossEntropyGrad': 2,
};

const parts = ['forward', 'backward', 'inference'] as const;

function reads16Bits(node: Node, value: string): boolean {
  const port = narrowPorts[operatorKey(node)];
  return node.inputs.every((input, index) => input !== value || index === port);
}

/** Inputs of a graph that all of its nodes take in 16 bits. */
function narrowInputs({ inputs, outputs, nodes }: Graph): Set<string> {
  const narrow = new Set(inputs.filter(({ dtype }) => dtype === 'float32').map(({ name }) => name));
  for (const { name } of outputs) narrow.delete(name);
  for (const node of nodes) {
    for (const input of readsOf(node)) if (!reads16Bits(node, input)) narrow.delete(input);
  }
  return narrow;
}

/**
 * Names of the parameters that every pass that reads them can take in 16 bits. None in a lowered plan: it has no
 * product that widens, and what computes it may not know the type.
 */
export function narrowParameters(plan: TrainingPlan): Set<string> {
  const { programs, segments, parameters, lowered } = plan;
  if (lowered !== null) return new Set();
  const names = new Set(parameters.map(({ name }) => name));
  const accepted = new Map(
    [...programs].map(([key, program]) => [
      key,
      parts.map((part) => program[part] && narrowInputs(program[part])),
    ]),
  );
  for (const segment of segments) {
    const inputs = accepted.get(segment.program)!;
    for (const [index, part] of parts.entries()) {
      for (const { kind, formal, actual } of segment[part]?.inputs ?? []) {
        if (kind === 'parameter' && !inputs[index]!.has(formal)) names.delete(actual);
      }
    }
  }
  return names;
}

/**
 * The plan with these parameters bound in 16 bits.
 *
 * @param names what `narrowParameters` gave for a plan of the same model; where batches of another shape make a
 *   node of one that does not take 16 bits, its pass widens the parameter first
 */
export function readIn16Bits(
  plan: TrainingPlan,
  names: ReadonlySet<string>,
  type: DataType,
): TrainingPlan {
  const programs: TrainingPlan['programs'] = new Map();
  const isNarrow = ({ kind, actual }: PlannedValue) => kind === 'parameter' && names.has(actual);
  const narrowed = (values: readonly PlannedValue[]) =>
    values.map((value) => (isNarrow(value) ? { ...value, dtype: type } : value));
  const segments = plan.segments.map((segment) => {
    const formals = new Set(
      parts.flatMap((part) => segment[part]?.inputs.filter(isNarrow) ?? []).map((v) => v.formal),
    );
    // Segments with equal programs may differ in which of their parameters are read elsewhere in fp32.
    const key = formals.size === 0 ? segment.program : `${segment.program}/${[...formals].sort()}`;
    if (!programs.has(key)) {
      const program = plan.programs.get(segment.program)!;
      const narrow = (graph: Graph) => narrowGraph(graph, formals, type);
      programs.set(key, {
        ...program,
        forward: narrow(program.forward),
        backward: program.backward && narrow(program.backward),
        inference: narrow(program.inference),
      });
    }
    const { forward, backward, inference } = segment;
    return {
      ...segment,
      program: key,
      forward: { ...forward, inputs: narrowed(forward.inputs) },
      backward: backward && { ...backward, inputs: narrowed(backward.inputs) },
      inference: { ...inference, inputs: narrowed(inference.inputs) },
    };
  });
  return { ...plan, programs, segments };
}

function narrowGraph(graph: Graph, formals: ReadonlySet<string>, type: DataType): Graph {
  const inputs = graph.inputs.map((input) =>
    formals.has(input.name) ? { ...input, dtype: type } : input,
  );
  const widened = new Set<string>();
  const nodes = graph.nodes.flatMap((node): Node[] => {
    const own = [...new Set(readsOf(node))].filter((input) => formals.has(input));
    if (own.length === 0) return [node];
    const unable = own.filter((input) => !reads16Bits(node, input));
    const casts = unable
      .filter((input) => !widened.has(input))
      .map((input) => cast(input, widenedName(input)));
    for (const input of unable) widened.add(input);
    const reader = {
      ...node,
      inputs: node.inputs.map((input) => (unable.includes(input) ? widenedName(input) : input)),
    };
    if (operatorKey(node) !== 'Gather' || unable.length > 0) return [...casts, reader];
    const rows = node.outputs[0]!;
    return [{ ...reader, outputs: [narrowName(rows)] }, cast(narrowName(rows), rows)];
  });
  return { ...graph, inputs, nodes };
}

const widenedName = (value: string) => `${value}.widened`;
const narrowName = (value: string) => `${value}.narrow`;

/** A Cast to fp32. */
function cast(input: string, output: string): Node {
  return {
    name: output,
    opType: 'Cast',
    domain: '',
    inputs: [input],
    outputs: [output],
    attributes: { to: { type: 'int', value: dataTypeNumbers.float32 } },
  };
}

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
import { graphKey, type Role } from './canonical.ts';
import { type CompiledPiece, Compiler, type Program } from './compile.ts';
import { Emitter } from './emitter.ts';
import { activeValues, gradientName } from './gradient/index.ts';
import type { RecomputePolicy } from './gradient/recompute.ts';
import type { DataType, Graph, Node, ValueInfo } from './ir.ts';
import { makeConcrete } from './passes/concrete.ts';
import { fuse } from './passes/fuse/index.ts';
import type { TypedGraph } from './passes/rewrite.ts';
import { separateRandomness } from './randomness.ts';
import { type Division, divide, type Piece, valuesLeaving } from './segments.ts';
import { numel } from './tensor.ts';
import { readsOf, writesOf } from './topology.ts';

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
  /** What backward computes again instead of having it saved. Default: cheap arithmetic. */
  recompute?: RecomputePolicy | undefined;
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
}

/** Constants up to this many elements are copied into the segments that read them. */
const smallConstant = 1024;

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
  const fused = options.fuse === false ? { ...concrete, replaced: [] } : fuse(concrete);
  const trainable = new Set([...concrete.parameters].filter(options.trainable));
  const typed: TypedGraph = { graph: fused.graph, types: fused.types };
  const active = activeValues(typed.graph, typed.types, [...trainable], [loss]);
  if (!active.has(loss)) throw nothingToTrain(loss);

  const emit = new Emitter(typed.types, 'plan/');
  const division = separateRandomness(divide(typed, concrete.parameters, loss), emit);
  const constants = new Map([...typed.graph.initializers, ...emit.constants]);
  const planner = new Planner(typed, concrete.parameters, trainable, active, division, constants);
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
  ].filter(({ name }) => used.has(name) && !concrete.parameters.has(name));
  return {
    key: graphKey(prologue?.graph ?? typed.graph, segments),
    ...(prologue && { prologue }),
    programs: planner.programs,
    segments,
    inputs,
    seeds: [gradientName(loss)],
    parameters: planner.parameters(segments),
    replaced: fused.replaced,
  };
}

class Planner {
  programs = new Map<string, Program>();
  private readonly typed: TypedGraph;
  private readonly parameterNames: ReadonlySet<string>;
  private readonly trainable: ReadonlySet<string>;
  private readonly active: ReadonlySet<string>;
  private readonly division: Division;
  private readonly constants: TypedGraph['graph']['initializers'];
  private readonly prologueValues: ReadonlySet<string>;
  private readonly graphInputs: ReadonlySet<string>;

  constructor(
    typed: TypedGraph,
    parameterNames: ReadonlySet<string>,
    trainable: ReadonlySet<string>,
    active: ReadonlySet<string>,
    division: Division,
    constants: TypedGraph['graph']['initializers'],
  ) {
    this.typed = typed;
    this.parameterNames = parameterNames;
    this.trainable = trainable;
    this.active = active;
    this.division = division;
    this.constants = constants;
    this.prologueValues = new Set(division.prologue.flatMap(writesOf));
    this.graphInputs = new Set(typed.graph.inputs.map(({ name }) => name));
  }

  info(name: string): { name: string; dtype: DataType; shape: readonly number[] } {
    const { dtype, shape } = this.typed.types.get(name)!;
    return { name, dtype, shape };
  }

  /** Compiles the pieces, last first: what arrives as a gradient depends on who sends one. */
  segments(loss: string, options: PlanOptions): PlannedSegment[] {
    const { pieces } = this.division;
    const { typed, constants, trainable, active } = this;
    const roleOf = (value: string) => this.roleOf(value);
    const compiler = new Compiler(
      { types: typed.types, constants, roleOf, trainable, active },
      options.lower ?? false,
      options.recompute,
    );
    this.programs = compiler.programs;
    /** Activation → segments that send a gradient for it, ascending. */
    const senders = new Map<string, Piece[]>();
    const written = new Set<string>();
    const kept = new Set(options.keepOutputs ?? []);
    const segments: PlannedSegment[] = [];
    for (const piece of pieces.toReversed()) {
      const leaving = valuesLeaving(piece, pieces, new Set([loss]));
      const fanIn = new Map<string, number>();
      for (const value of leaving) {
        const count = (senders.get(value)?.length ?? 0) + (value === loss ? 1 : 0);
        if (count > 0) fanIn.set(value, count);
      }
      const onlyKept = piece.nodes
        .flatMap(writesOf)
        .filter((value) => kept.has(value) && !leaving.includes(value));
      const compiled = compiler.compile(piece, { always: leaving, kept: onlyKept, fanIn });
      const names = new ActualNames(compiled, senders, loss);
      segments.unshift(this.bind(compiled, names, new Set([loss, ...kept]), written));
      for (const value of names.sentGradients()) {
        senders.set(value, [piece, ...(senders.get(value) ?? [])]);
      }
    }
    // Who else sends a gradient is known only now: those of values with one sender stay unmarked.
    for (const segment of segments) {
      for (const value of segment.backward?.outputs ?? []) {
        if (value.kind !== 'grad') continue;
        const activation = value.actual;
        const several = senders.get(activation)!.length > 1;
        value.actual = arrival(activation, several ? segment.name : undefined);
      }
    }
    return segments;
  }

  /** The prologue with the values that the segments bind from it, or undefined when they bind none. */
  prologue(segments: readonly PlannedSegment[]): TrainingPlan['prologue'] {
    const side = new Set(
      segments
        .flatMap(({ forward, inference, backward }) => [
          ...forward.inputs,
          ...inference.inputs,
          ...(backward?.inputs ?? []),
        ])
        .filter(({ kind }) => kind === 'side')
        .map(({ actual }) => actual),
    );
    if (side.size === 0) return undefined;
    const outputs: PlannedValue[] = [];
    const copies: Node[] = [];
    for (const actual of side) {
      const computed = this.prologueValues.has(actual);
      const formal = computed ? actual : `${actual}.shared`;
      const { dtype, shape } = this.info(actual);
      outputs.push({ formal, actual, kind: 'side', dtype, shape });
      if (!computed) copies.push(identity(actual, formal));
    }
    const needed = neededNodes(this.division.prologue, side);
    const nodes = [...needed, ...copies];
    const read = new Set(nodes.flatMap(readsOf));
    const graph: Graph = {
      name: 'prologue',
      inputs: this.typed.graph.inputs
        .filter(({ name }) => read.has(name))
        .map(({ name }) => this.info(name)),
      outputs: outputs.map(
        ({ formal, dtype, shape }): ValueInfo => ({ name: formal, dtype, shape }),
      ),
      initializers: new Map([...this.constants].filter(([name]) => read.has(name))),
      nodes,
      valueInfo: new Map(),
    };
    const inputs = graph.inputs.map(({ name }): PlannedValue => {
      const { dtype, shape } = this.info(name);
      return { formal: name, actual: name, kind: 'input', dtype, shape };
    });
    return { graph, inputs, outputs };
  }

  parameters(segments: readonly PlannedSegment[]): TrainingPlan['parameters'] {
    return [...this.parameterNames].flatMap((name) => {
      const users = segments.flatMap((segment, i) =>
        segment.parameters.includes(name) ? [i] : [],
      );
      if (users.length === 0) return [];
      return [{ ...this.info(name), trainable: this.trainable.has(name), segments: users }];
    });
  }

  private roleOf(value: string): Role {
    if (this.parameterNames.has(value)) return 'parameter';
    if (this.prologueValues.has(value)) return 'side';
    const constant = this.constants.get(value);
    if (constant !== undefined) return numel(constant.dims) <= smallConstant ? 'constant' : 'side';
    return this.graphInputs.has(value) ? 'input' : 'activation';
  }

  private bind(
    compiled: CompiledPiece,
    names: ActualNames,
    graphOutputs: ReadonlySet<string>,
    written: Set<string>,
  ): PlannedSegment {
    const { program, key, piece, canonical } = compiled;
    const bindAll = (infos: readonly ValueInfo[], output: boolean) =>
      infos.map(({ name }) => names.value(name, output, graphOutputs));
    const binding = (graph: Graph): Binding => ({
      inputs: bindAll(graph.inputs, false),
      outputs: bindAll(graph.outputs, true),
    });
    const backward = program.backward && binding(program.backward);
    for (const value of backward?.inputs ?? []) {
      if (value.kind !== 'first') continue;
      value.firstUse = !written.has(value.parameter!);
      written.add(value.parameter!);
    }
    const parameters = [...canonical.formals]
      .filter(([, formal]) => canonical.roles.get(formal) === 'parameter')
      .map(([actual]) => actual);
    return {
      name: piece.name,
      program: key,
      parameters,
      forward: binding(program.forward),
      backward,
      inference: binding(program.inference),
    };
  }
}

/** The plan's names and kinds for the formal names of one segment. */
class ActualNames {
  private readonly compiled: CompiledPiece;
  private readonly actuals: Map<string, string>;
  /** Formal name of an arriving gradient → its actual name. */
  private readonly arriving = new Map<string, string>();

  constructor(compiled: CompiledPiece, senders: ReadonlyMap<string, Piece[]>, loss: string) {
    this.compiled = compiled;
    this.actuals = new Map([...compiled.canonical.formals].map(([actual, name]) => [name, actual]));
    for (const [output, formals] of compiled.arriving) {
      const from = senders.get(output) ?? [];
      const several = from.length > 1;
      const actuals = from.map((piece) => arrival(output, several ? piece.name : undefined));
      if (output === loss) actuals.push(gradientName(loss));
      formals.forEach((formal, i) => {
        this.arriving.set(formal, actuals[i]!);
      });
    }
  }

  /** Activations of earlier segments for which this one's backward computes a gradient. */
  sentGradients(): string[] {
    const outputs = this.compiled.program.backward?.outputs ?? [];
    return outputs
      .filter(({ name }) => name.startsWith('grad.'))
      .map(({ name }) => this.actuals.get(name.slice('grad.'.length))!);
  }

  value(formal: string, output: boolean, graphOutputs: ReadonlySet<string>): PlannedValue {
    const { dtype, shape } = this.compiled.types.get(formal)!;
    return { formal, dtype, shape, ...this.describe(formal, output, graphOutputs) };
  }

  private describe(
    formal: string,
    output: boolean,
    graphOutputs: ReadonlySet<string>,
  ): Pick<PlannedValue, 'actual' | 'kind' | 'parameter'> {
    const { canonical, piece, saved } = this.compiled;
    const arriving = this.arriving.get(formal);
    if (arriving !== undefined) return { actual: arriving, kind: 'grad' };
    for (const [prefix, kind] of prefixes) {
      if (!formal.startsWith(prefix)) continue;
      const target = this.actuals.get(formal.slice(prefix.length));
      // The sender's mark is added when all senders are known.
      if (kind === 'grad') return { actual: target!, kind };
      if (kind === 'mask') return { actual: `${prefix}${piece.name}.${formal.slice(5)}`, kind };
      const shared = kind === 'buffer' || kind === 'first';
      const actual = `${prefix}${target}${shared ? '' : `@${piece.name}`}`;
      return { actual, kind, parameter: target! };
    }
    const role = canonical.roles.get(formal);
    const actual = this.actuals.get(formal);
    if (role !== undefined) return { actual: actual!, kind: role as ValueKind };
    const kept = graphOutputs.has(actual!);
    // A kept output that backward reads, too, is one value with one place.
    if (saved.has(formal) && !kept) return { actual: `${piece.name}/${formal}`, kind: 'saved' };
    return { actual: actual!, kind: output && kept ? 'output' : 'activation' };
  }
}

const prefixes = [
  ['gradient_buffer.', 'buffer'],
  ['first.', 'first'],
  ['token.', 'token'],
  ['updated.', 'updated'],
  ['grad.', 'grad'],
  ['mask.', 'mask'],
] as const;

function arrival(activation: string, sender: string | undefined): string {
  return sender === undefined ? `grad.${activation}` : `grad.${activation}@${sender}`;
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

function identity(input: string, output: string): Node {
  return {
    name: output,
    opType: 'Identity',
    domain: '',
    inputs: [input],
    outputs: [output],
    attributes: {},
  };
}

/** The nodes that the targets depend on, in their order. */
function neededNodes(nodes: readonly Node[], targets: ReadonlySet<string>): Node[] {
  const live = new Set(targets);
  const needed: Node[] = [];
  for (const node of nodes.toReversed()) {
    if (!writesOf(node).some((output) => live.has(output))) continue;
    for (const input of readsOf(node)) live.add(input);
    needed.unshift(node);
  }
  return needed;
}

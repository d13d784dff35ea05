/** Compiling the pieces of a graph and binding their programs: the work behind planTraining. */
import { ActualNames, arrival } from './binding.ts';
import type { Role } from './canonical.ts';
import { type CompiledPiece, Compiler, type Program } from './compile.ts';
import type { DataType, Graph, Node, ValueInfo } from './ir.ts';
import type { TypedGraph } from './passes/rewrite.ts';
import { isTile } from './passes/tile-tables.ts';
import type {
  Binding,
  PlanOptions,
  PlannedSegment,
  PlannedValue,
  TrainingPlan,
} from './planned.ts';
import { type Division, type Piece, valuesLeaving } from './segments.ts';
import { numel } from './tensor.ts';
import { readsOf, writesOf } from './topology.ts';

/** Constants up to this many elements are copied into the segments that read them. */
const smallConstant = 1024;

/**
 * Chunks cost one product more, a sixth to a third of a small model's step (bench/RESULTS.md); logits and
 * their gradient, which are alive together, twice their size.
 */
const defaultLogitsBytes = 2 ** 29;

export class Planner {
  programs = new Map<string, Program>();
  lowered: ReadonlySet<string> = new Set();
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
      {
        fuse: options.fuse ?? true,
        lower: options.lower,
        recompute: options.recompute,
        // Tiles of a head are for memory: so is a loss by chunks.
        maxLogitsBytes: (piece) =>
          options.maxLogitsBytes ?? (isTile(piece) ? 0 : defaultLogitsBytes),
      },
    );
    this.programs = compiler.programs;
    this.lowered = compiler.lowered;
    /** Activation → segments that send a gradient for it, ascending. */
    const senders = new Map<string, Piece[]>();
    const written = new Set<string>();
    const kept = new Set(options.keepOutputs ?? []);
    const segments: PlannedSegment[] = [];
    // What leads to kept outputs alone, training does not hand on.
    const forLoss = new Set(
      neededNodes(
        pieces.flatMap(({ nodes }) => nodes),
        new Set([loss]),
      ),
    );
    const trained = pieces.map((piece) => ({
      ...piece,
      nodes: piece.nodes.filter((node) => forLoss.has(node)),
    }));
    for (const [index, piece] of [...pieces.entries()].toReversed()) {
      const leaving = valuesLeaving(trained[index]!, trained, new Set([loss]));
      const fanIn = new Map<string, number>();
      for (const value of leaving) {
        const count = (senders.get(value)?.length ?? 0) + (value === loss ? 1 : 0);
        if (count > 0) fanIn.set(value, count);
      }
      const onlyKept = valuesLeaving(piece, pieces, kept).filter(
        (value) => !leaving.includes(value),
      );
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

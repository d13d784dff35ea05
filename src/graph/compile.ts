/** From a piece of the graph to the program that runs it, shared by all pieces that are equal. */
import { type Canonical, canonicalize, graphKey, type Role } from './canonical.ts';
import { type Differentiated, differentiate } from './gradient/index.ts';
import type { RecomputePolicy } from './gradient/recompute.ts';
import type { Graph, Tensor, ValueType } from './ir.ts';
import { chunkLosses } from './passes/linear-cross-entropy.ts';
import { lower, type LowerOptions } from './passes/lower/index.ts';
import { fuseProducts } from './passes/products/index.ts';
import { type TypedGraph, withoutDeadNodes, withoutUnreadInputs } from './passes/rewrite.ts';
import { withoutDropout } from './randomness.ts';
import type { Piece } from './segments.ts';

/** What equal segments run. Values have formal names. */
export interface Program {
  forward: Graph;
  /** Null when no gradient passes the segment. */
  backward: Graph | null;
  /** Forward without saved values and without dropout, with the outputs that evaluation keeps. */
  inference: Graph;
  savedBytes: number;
  /** Bytes that backward computes again instead of having them saved. */
  sparedBytes: number;
}

export interface CompiledPiece {
  piece: Piece;
  key: string;
  program: Program;
  canonical: Canonical;
  /** Types of every formal name of the three graphs. */
  types: ReadonlyMap<string, ValueType>;
  /** Outputs of forward that exist for backward alone. */
  saved: ReadonlySet<string>;
  /** Formal names under which an output's gradients arrive, by actual output. */
  arriving: ReadonlyMap<string, readonly string[]>;
}

export interface PieceContext {
  types: ReadonlyMap<string, ValueType>;
  constants: ReadonlyMap<string, Tensor>;
  roleOf(value: string): Role;
  trainable: ReadonlySet<string>;
  /** Values that need a gradient. */
  active: ReadonlySet<string>;
}

/** What a piece hands out, by actual name. */
export interface PieceOutputs {
  /** In training and in inference. */
  always: readonly string[];
  /** In inference only. */
  kept: readonly string[];
  /** Active outputs → how many gradients arrive for each. */
  fanIn: ReadonlyMap<string, number>;
}

export interface CompileOptions {
  /** Fuse what lies between products. */
  fuse: boolean;
  /** Plain ONNX at the end. */
  lower: LowerOptions['what'] | undefined;
  recompute: RecomputePolicy | undefined;
  /** Logits of more bytes are computed by chunks, twice; by the name of their piece. */
  maxLogitsBytes: (piece: string) => number;
}

interface CompiledProgram {
  program: Program;
  types: ReadonlyMap<string, ValueType>;
  saved: ReadonlySet<string>;
}

export class Compiler {
  readonly programs = new Map<string, Program>();
  /** Operators that became plain ONNX. */
  readonly lowered = new Set<string>();
  private readonly compiled = new Map<string, CompiledProgram>();
  private readonly context: PieceContext;
  private readonly options: CompileOptions;

  constructor(context: PieceContext, options: CompileOptions) {
    this.context = context;
    this.options = options;
  }

  compile(piece: Piece, outputs: PieceOutputs): CompiledPiece {
    const { types, constants, roleOf, active, trainable } = this.context;
    const all = [...outputs.always, ...outputs.kept];
    const canonical = canonicalize(piece.nodes, all, roleOf, types, constants);
    const { formals } = canonical;
    const formal = (name: string) => formals.get(name)!;
    const arriving = new Map(
      [...outputs.fanIn].map(([name, count]) => [name, arrivalNames(formal(name), count)]),
    );
    const parameters: string[] = [];
    const activations: string[] = [];
    for (const [actual, name] of formals) {
      const role = canonical.roles.get(name);
      if (role === 'parameter' && trainable.has(actual)) parameters.push(name);
      if (role === 'activation' && active.has(actual)) activations.push(name);
    }
    const options = {
      parameters,
      activations,
      outputGradients: new Map([...arriving].map(([name, list]) => [formal(name), list])),
      ...(this.options.recompute && { policy: this.options.recompute }),
    };
    const maxLogitsBytes = this.options.maxLogitsBytes(piece.name);
    const key = graphKey(
      canonical.graph,
      outputs.always.length,
      parameters,
      activations,
      [...options.outputGradients],
      this.options.fuse,
      this.options.lower ?? 'none',
      maxLogitsBytes,
    );
    let entry = this.compiled.get(key);
    if (entry === undefined) {
      const kept = new Set(outputs.kept.map(formal));
      entry = this.compileProgram(canonical, kept, key, options, maxLogitsBytes);
      this.compiled.set(key, entry);
      this.programs.set(key, entry.program);
    }
    return { piece, key, canonical, arriving, ...entry };
  }

  private compileProgram(
    { graph, types }: Canonical,
    kept: ReadonlySet<string>,
    key: string,
    options: Parameters<typeof differentiate>[1],
    maxLogitsBytes: number,
  ): CompiledProgram {
    const training = { ...graph, outputs: graph.outputs.filter(({ name }) => !kept.has(name)) };
    const live = withoutUnreadInputs(withoutDeadNodes(training));
    const activations = new Set(options.activations);
    const source = this.options.fuse
      ? chunkLosses({ graph: live, types }, { maxLogitsBytes, activations })
      : { graph: live, types };
    const result: Differentiated = differentiate(source, options);
    const allTypes = new Map([...source.types, ...(result.backward?.types ?? [])]);
    const evaluated = withoutUnreadInputs(
      withoutDeadNodes({ ...graph, nodes: withoutDropout(graph.nodes) }),
    );
    const finish = (typed: TypedGraph, part: string): Graph => {
      const fused = this.options.fuse ? fuseProducts(typed) : typed;
      const what = this.options.lower;
      const done = what ? lower(fused, { what, lowered: this.lowered }) : fused;
      for (const [name, type] of done.types) allTypes.set(name, type);
      return { ...done.graph, name: `${part}.${key}` };
    };
    const { backward, savedBytes, sparedBytes } = result;
    const forwardTypes = backward?.types ?? source.types;
    const program: Program = {
      forward: finish({ graph: result.forward, types: forwardTypes }, 'forward'),
      backward: backward && finish(backward, 'backward'),
      inference: finish({ graph: evaluated, types }, 'inference'),
      savedBytes,
      sparedBytes,
    };
    return { program, types: allTypes, saved: new Set(result.saved) };
  }
}

/** `grad.y0`, or `grad.y0.0`, `grad.y0.1`, ... when several gradients arrive, to be added in that order. */
function arrivalNames(formal: string, count: number): string[] {
  if (count === 1) return [`grad.${formal}`];
  return Array.from({ length: count }, (_, i) => `grad.${formal}.${i}`);
}

/** What a plan of training consists of: programs, what each segment binds to them, and every bound value. */
import type { Program } from './compile.ts';
import type { RecomputePolicy } from './gradient/recompute.ts';
import type { DataType, Graph } from './ir.ts';
import type { LowerOptions } from './passes/lower/index.ts';
import type { AttentionBlocks, SelfAttention, SparseAttention } from './passes/sparse-attention.ts';
import type { Tile, TileRows } from './passes/tile-tables.ts';

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
  /**
   * Plain ONNX (passes/lower): `all` of it, or the `arithmetic`, for execution providers that lack our operators.
   * Default: none.
   */
  lower?: LowerOptions['what'] | undefined;
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
  | 'updated' // wholly lowered plans: a gradient buffer's new content
  | 'mask'; // wholly lowered plans: kept elements of a dropout, bool

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
  /** The operators that run as plain ONNX; null without `lower`. */
  lowered: ReadonlySet<string> | null;
  /** What `attentionBlocks` was asked for, and what stays dense; null without it. */
  sparseAttention: SparseAttention | null;
}

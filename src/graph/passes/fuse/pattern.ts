/** Looking at a graph from a node towards its inputs. */
import type { Emitter } from '../../emitter.ts';
import { positiveAxis } from '../../emitter.ts';
import type { Graph, Node, ValueInfo, ValueType } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { numel, toNumbers } from '../../tensor.ts';

/** Emits the replacement and returns a value for each output of the matched node. */
export type Replacement = () => readonly (string | undefined)[];

/** A replacement under a name of its own: what exactly was found. */
export interface NamedReplacement {
  name: string;
  make: Replacement;
}

export type Match = Replacement | NamedReplacement;

/** One pattern. `match` is asked at the node whose outputs the replacement would make. */
export interface Fusion {
  /** What is replaced by what, as reports say it. */
  name: string;
  match(node: Node, view: GraphView, live: ReadonlySet<string>): Match | undefined;
}

export class GraphView {
  readonly emit: Emitter;
  /** Graph inputs that fusions brought in, such as `rng`. */
  readonly addedInputs = new Map<string, ValueInfo>();
  private readonly graph: Graph;
  private readonly producers: ReadonlyMap<string, Node>;
  private readonly types: ReadonlyMap<string, ValueType>;
  private readonly trained: ReadonlySet<string>;
  private readonly reasons = new Map<string, string>();

  /** `trained` holds the values that depend on a parameter that training changes. */
  constructor(
    graph: Graph,
    producers: ReadonlyMap<string, Node>,
    types: ReadonlyMap<string, ValueType>,
    emit: Emitter,
    trained: ReadonlySet<string>,
  ) {
    this.graph = graph;
    this.producers = producers;
    this.types = types;
    this.emit = emit;
    this.trained = trained;
  }

  needsGradient(value: string): boolean {
    return this.trained.has(value);
  }

  /** Notes why something stays as it is; `place` is counted once. */
  keep(place: string, reason: string): void {
    this.reasons.set(place, reason);
  }

  /** Place → reason why it stays as it is. */
  get reasonOf(): ReadonlyMap<string, string> {
    return this.reasons;
  }

  /** Reason → number of places where it was met. */
  get kept(): ReadonlyMap<string, number> {
    const counts = new Map<string, number>();
    for (const reason of this.reasons.values()) counts.set(reason, (counts.get(reason) ?? 0) + 1);
    return counts;
  }

  /** The node that makes a value, when it is one of the given operators (any, if none is given). */
  from(value: string | undefined, ...operators: string[]): Node | undefined {
    const node = value === undefined ? undefined : this.producers.get(value);
    if (node === undefined || operators.length === 0) return node;
    return operators.includes(operatorKey(node)) ? node : undefined;
  }

  type(value: string): ValueType {
    return this.types.get(value)!;
  }

  shape(value: string): readonly number[] {
    return this.type(value).shape;
  }

  /** The one number of a constant, or undefined. */
  scalar(value: string | undefined): number | undefined {
    const constant = value ? this.types.get(value)?.constant : undefined;
    if (constant === undefined || numel(constant.dims) !== 1) return undefined;
    return toNumbers(constant)[0];
  }

  numbers(value: string | undefined): number[] | undefined {
    const constant = value ? this.types.get(value)?.constant : undefined;
    return constant && toNumbers(constant);
  }

  /** For a two-input node: the number and the other input, in either order. */
  withScalar(node: Node | undefined): { number: number; other: string } | undefined {
    if (node === undefined || node.inputs.length !== 2) return undefined;
    const [a, b] = node.inputs as [string, string];
    const [left, right] = [this.scalar(a), this.scalar(b)];
    if (right !== undefined) return { number: right, other: a };
    return left === undefined ? undefined : { number: left, other: b };
  }

  /** Both orders of a two-input node's inputs. */
  orders(node: Node): [string, string][] {
    const [a, b] = node.inputs as [string, string];
    return [
      [a, b],
      [b, a],
    ];
  }

  /** Does a Reduce node work on exactly the last axis, keeping it? */
  reducesLastAxis(node: Node): boolean {
    const rank = this.shape(node.inputs[0]!).length;
    const attribute = node.attributes.axes;
    const axes =
      this.numbers(node.inputs[1]) ?? (attribute?.type === 'ints' ? attribute.value : undefined);
    const keep = node.attributes.keepdims;
    if (keep?.type === 'int' && keep.value === 0) return false;
    return axes?.length === 1 && positiveAxis(axes[0]!, rank) === rank - 1;
  }

  /** A graph input of the given name, brought in once. */
  bringInput(info: ValueInfo & { shape: readonly number[] }): string {
    const own = this.graph.inputs.find((input) => input.name === info.name);
    if (own === undefined && !this.addedInputs.has(info.name)) {
      this.addedInputs.set(info.name, info);
      this.emit.declare(info.name, { dtype: info.dtype, shape: info.shape });
    }
    return info.name;
  }

  /** First dimension of the first graph input: samples in a batch. */
  batchSize(): number | undefined {
    const [first] = this.graph.inputs;
    return first && this.types.get(first.name)?.shape[0];
  }
}

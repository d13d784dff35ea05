/** A graph that is rewritten node by node: who makes and who reads a value is always known. */
import { attribute } from '../../attributes.ts';
import { Emitter } from '../../emitter.ts';
import type { Graph, Node, Tensor, ValueType } from '../../ir.ts';
import { numel, toNumbers } from '../../tensor.ts';
import { readsOf, sortNodes, writesOf } from '../../topology.ts';
import { type TypedGraph, withoutDeadNodes } from '../rewrite.ts';

const rowViews = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity']);

export class Workbench {
  readonly emit: Emitter;
  private readonly graph: Graph;
  private readonly types: Map<string, ValueType>;
  private readonly makers = new Map<string, Node>();
  private readonly users = new Map<string, Set<Node>>();
  /** Node → its place in the order; a node that replaces another takes its place. */
  private readonly places = new Map<Node, number>();
  private readonly outputs: Set<string>;

  constructor({ graph, types }: TypedGraph) {
    this.graph = graph;
    this.types = new Map(types);
    this.emit = new Emitter(this.types, 'rows/');
    this.outputs = new Set(graph.outputs.map(({ name }) => name));
    graph.nodes.forEach((node, i) => {
      this.put({ ...node }, i);
    });
  }

  /** The nodes at this moment, in order. */
  nodes(): Node[] {
    return [...this.places].sort(([, a], [, b]) => a - b).map(([node]) => node);
  }

  has(node: Node): boolean {
    return this.places.has(node);
  }

  maker(value: string): Node | undefined {
    return this.makers.get(value);
  }

  shape(value: string): readonly number[] {
    return this.emit.shape(value);
  }

  constant(value: string | undefined): Tensor | undefined {
    if (!value) return undefined;
    return this.types.get(value)?.constant ?? this.graph.initializers.get(value);
  }

  /** The one number of a constant. */
  scalar(value: string): number | undefined {
    const tensor = this.constant(value);
    return tensor && numel(tensor.dims) === 1 ? toNumbers(tensor)[0] : undefined;
  }

  isOutput(value: string): boolean {
    return this.outputs.has(value);
  }

  isInput(value: string): boolean {
    return this.graph.inputs.some(({ name }) => name === value);
  }

  /** The node that alone reads a value, once; undefined when others do, or the value is an output. */
  onlyReader(value: string): Node | undefined {
    if (this.outputs.has(value)) return undefined;
    const readers = this.users.get(value);
    if (readers?.size !== 1) return undefined;
    const [reader] = readers as unknown as [Node];
    return readsOf(reader).filter((read) => read === value).length === 1 ? reader : undefined;
  }

  put(node: Node, place: number): void {
    this.places.set(node, place);
    for (const output of writesOf(node)) this.makers.set(output, node);
    for (const input of readsOf(node)) {
      const readers = this.users.get(input);
      if (readers) readers.add(node);
      else this.users.set(input, new Set([node]));
    }
  }

  remove(node: Node): void {
    this.places.delete(node);
    for (const output of writesOf(node)) {
      if (this.makers.get(output) === node) this.makers.delete(output);
    }
    for (const input of readsOf(node)) this.users.get(input)?.delete(node);
  }

  /** Puts `made` where `last` was and takes all of `old` away. Returns `made`. */
  replace(old: readonly Node[], last: Node, made: Node): Node {
    const place = this.places.get(last)!;
    for (const node of old) this.remove(node);
    this.put(made, place);
    return made;
  }

  /** Takes away what nothing reads any more. */
  sweep(): void {
    for (const node of this.nodes().toReversed()) {
      const needed = writesOf(node).some(
        (output) => this.outputs.has(output) || (this.users.get(output)?.size ?? 0) > 0,
      );
      if (!needed) this.remove(node);
    }
  }

  /** Readers of `from` read `to` from now on; an output of that name is dropped. */
  retire(from: string, to: string): void {
    this.outputs.delete(from);
    for (const reader of [...(this.users.get(from) ?? [])]) {
      const inputs = reader.inputs.map((input) => (input === from ? to : input));
      this.replace([reader], reader, { ...reader, inputs });
    }
  }

  /** The value under views that keep the last axis as it is. */
  rowRoot(value: string): string {
    const node = this.maker(value);
    if (node === undefined || !this.isRowView(node)) return value;
    return this.rowRoot(node.inputs[0]!);
  }

  isRowView(node: Node): boolean {
    if (node.domain !== '' || !rowViews.has(node.opType)) return false;
    return this.shape(node.inputs[0]!).at(-1) === this.shape(node.outputs[0]!).at(-1);
  }

  /** A Reshape of `source` that makes `output`, in the place of `old`. */
  view(source: string, output: string, old: Node): Node {
    const shape = this.shape(output);
    const attributes = { allowzero: attribute('allowzero', shape.includes(0) ? 1 : 0) };
    const inputs = [source, this.emit.ints(shape)];
    return { ...old, opType: 'Reshape', inputs, attributes };
  }

  /** The rows of a value with these axes before the last one. */
  asRows(value: string, leading: readonly number[]): string {
    const root = this.rowRoot(value);
    const wanted = [...leading, this.shape(root).at(-1)!];
    const same = [value, root].find((name) => this.shape(name).join() === wanted.join());
    if (same !== undefined) return same;
    const made = this.emit.reshape(root, wanted);
    const [view] = this.emit.nodes.splice(0);
    const after = this.maker(root);
    this.put(view!, after === undefined ? -1 : this.places.get(after)! + 0.5);
    return made;
  }

  finish(): TypedGraph {
    const initializers = new Map([...this.graph.initializers, ...this.emit.constants]);
    const outputs = this.graph.outputs.filter(({ name }) => this.outputs.has(name));
    const graph = { ...this.graph, initializers, outputs, nodes: this.nodes() };
    const sorted = { ...graph, nodes: sortNodes(graph) };
    return { graph: withoutDeadNodes(sorted), types: this.types };
  }
}

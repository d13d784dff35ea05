/** Building a graph node by node, with value names that a person can read in an error. */
import { DeepSpeedError } from '../errors.ts';
import { attribute, type PlainAttribute } from './attributes.ts';
import type { DataType, Dim, Graph, Node, Tensor, ValueInfo } from './ir.ts';
import { fromNumbers } from './tensor.ts';

export interface OpOptions {
  /** '' (ai.onnx) unless told. */
  domain?: string;
  /** Name of the node, and of its outputs unless `output` says otherwise. Made unique. */
  name?: string;
  /** Exact name of the first output; an error when it is taken. */
  output?: string;
}

/**
 * @example
 * const b = new GraphBuilder('linear');
 * const x = b.input('x', 'float32', ['batch', 4]);
 * const w = b.initializer('w', fromNumbers('float32', [4, 2], weights));
 * b.output(b.op('MatMul', [x, w], {}, { output: 'y' }), 'float32', ['batch', 2]);
 * const graph = b.build();
 */
export class GraphBuilder {
  private readonly graph: Graph;
  private readonly names = new Set<string>();
  private readonly nodeNames = new Set<string>();
  private readonly counters = new Map<string, number>();
  private readonly constants = new Map<string, string>();
  private currentSegment: string | undefined;

  constructor(name: string) {
    this.graph = {
      name,
      inputs: [],
      outputs: [],
      initializers: new Map(),
      nodes: [],
      valueInfo: new Map(),
    };
  }

  /** A graph input; string dimensions are symbols. Returns the name. */
  input(name: string, dtype: DataType, shape: readonly Dim[]): string {
    this.graph.inputs.push({ name: this.claim(name), dtype, shape });
    return name;
  }

  /** A named parameter. Returns the name. */
  initializer(name: string, tensor: Tensor): string {
    this.graph.initializers.set(this.claim(name), tensor);
    return name;
  }

  /** A constant, one per (dtype, dims, values) however often it is asked for. Returns its name. */
  constant(dtype: DataType, dims: readonly number[], values: ArrayLike<number>): string {
    const list = Array.from(values, (value) => (Object.is(value, -0) ? '-0' : String(value)));
    const key = `${dtype}[${dims.join(',')}] ${list.join(',')}`;
    const known = this.constants.get(key);
    if (known !== undefined) return known;
    const readable = list.length <= 4 ? `.${dims.length === 0 ? list[0] : `[${list}]`}` : '';
    const name = this.unique(`const.${dtype}${readable}`);
    this.constants.set(key, name);
    return this.initializer(name, fromNumbers(dtype, dims, values));
  }

  /**
   * Adds a node with one output and returns that output's name. `undefined` stands for an absent
   * optional input. Attribute numbers become int or float by what ONNX calls the attribute.
   */
  op(
    opType: string,
    inputs: readonly (string | undefined)[],
    attributes: Record<string, PlainAttribute> = {},
    options: OpOptions = {},
  ): string {
    return this.ops(opType, inputs, 1, attributes, options)[0]!;
  }

  /** Adds a node with `outputCount` outputs and returns their names. */
  ops(
    opType: string,
    inputs: readonly (string | undefined)[],
    outputCount: number,
    attributes: Record<string, PlainAttribute> = {},
    options: OpOptions = {},
  ): string[] {
    for (const input of inputs) {
      if (input !== undefined && !this.names.has(input)) {
        throw invalid(`${opType} reads '${input}', which nothing before it defines`);
      }
    }
    const scope = this.currentSegment === undefined ? '' : `${this.currentSegment}/`;
    const name = this.uniqueNodeName(options.name ?? `${scope}${opType}`);
    const outputs = Array.from({ length: outputCount }, (_, i) =>
      this.claim(i === 0 ? (options.output ?? name) : this.unique(`${name}.${i}`)),
    );
    const node: Node = {
      name,
      opType,
      domain: options.domain ?? '',
      inputs: inputs.map((input) => input ?? ''),
      outputs,
      attributes: Object.fromEntries(
        Object.entries(attributes).map(([key, value]) => [key, attribute(key, value)]),
      ),
    };
    if (this.currentSegment !== undefined) node.metadata = { segment: this.currentSegment };
    this.graph.nodes.push(node);
    return outputs;
  }

  /** Runs `fn`; every node it makes carries `metadata.segment = name`. The inner of two nested wins. */
  segment<T>(name: string, fn: () => T): T {
    const outer = this.currentSegment;
    this.currentSegment = name;
    try {
      return fn();
    } finally {
      this.currentSegment = outer;
    }
  }

  /** Declares an existing value as a graph output. */
  output(name: string, dtype: DataType, shape?: readonly Dim[]): void {
    if (!this.names.has(name)) throw invalid(`output '${name}' is not a value of this graph`);
    if (this.graph.outputs.some((output) => output.name === name)) {
      throw invalid(`'${name}' is an output twice`);
    }
    const info: ValueInfo = { name, dtype };
    this.graph.outputs.push(shape === undefined ? info : { ...info, shape });
  }

  /** The finished graph; the builder must not be used afterwards. */
  build(): Graph {
    if (this.graph.outputs.length === 0) throw invalid(`graph '${this.graph.name}' has no output`);
    return this.graph;
  }

  private claim(name: string): string {
    if (name === '') throw invalid('a value needs a name');
    if (this.names.has(name)) throw invalid(`two values are called '${name}'`);
    this.names.add(name);
    return name;
  }

  private unique(base: string): string {
    return this.firstFree(base, (name) => !this.names.has(name));
  }

  /** A node shares its name with its first output, so the name must be free for both. */
  private uniqueNodeName(base: string): string {
    const name = this.firstFree(base, (name) => !this.names.has(name) && !this.nodeNames.has(name));
    this.nodeNames.add(name);
    return name;
  }

  private firstFree(base: string, free: (name: string) => boolean): string {
    let count = this.counters.get(base) ?? 0;
    let name = count === 0 ? base : `${base}_${count}`;
    while (!free(name)) name = `${base}_${++count}`;
    this.counters.set(base, count + 1);
    return name;
  }
}

function invalid(message: string): DeepSpeedError {
  return new DeepSpeedError('GRAPH_INVALID', message);
}

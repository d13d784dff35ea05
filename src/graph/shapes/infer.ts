/** Types of all values of a graph, once the shapes of its inputs are known. */
import { DeepSpeedError } from '../../errors.ts';
import type { Graph, Node, ValueType } from '../ir.ts';
import { evaluate } from './evaluate.ts';
import { formatType, Operands } from './operands.ts';
import { bindInputs } from './symbols.ts';
import { shapeRuleOf } from './table.ts';

export interface InferOptions {
  /** Concrete shapes by input name. Inputs whose declared shape is known anyway may be left out. */
  inputs?: Readonly<Record<string, readonly number[]>>;
  /** Values of symbols in declared shapes. */
  symbols?: Readonly<Record<string, number>>;
  /** Initializers that training changes: they have no constant value. */
  variables?: ReadonlySet<string>;
  /** Constants above this many elements are not computed. Default 65,536. */
  maxElements?: number;
}

/**
 * The type of every value: inputs, initializers and what nodes make, with constants where a value
 * depends on no input. Nodes must be sorted. Throws SHAPE_MISMATCH, SHAPE_UNKNOWN or OPERATOR_UNKNOWN,
 * naming node, operator and the shapes of its inputs.
 */
export function inferTypes(graph: Graph, options: InferOptions = {}): Map<string, ValueType> {
  const types = bindInputs(graph, options.inputs ?? {}, options.symbols ?? {});
  for (const [name, tensor] of graph.initializers) {
    const { dtype, dims } = tensor;
    const variable = options.variables?.has(name) ?? false;
    types.set(name, variable ? { dtype, shape: dims } : { dtype, shape: dims, constant: tensor });
  }
  for (const node of graph.nodes) {
    const outputs = inferNode(node, types, options.maxElements ?? 65_536);
    for (const [i, name] of node.outputs.entries()) if (name !== '') types.set(name, outputs[i]!);
  }
  return types;
}

/** The types of one node's outputs, from the types of its inputs. */
export function inferNode(
  node: Node,
  types: ReadonlyMap<string, ValueType>,
  maxElements = 65_536,
): ValueType[] {
  const inputs = node.inputs.map((name) => (name === '' ? undefined : typeOf(node, name, types)));
  const results = shapeRuleOf(node)(new Operands(node, inputs));
  const used = node.outputs.findLastIndex((name) => name !== '') + 1;
  if (used > results.length) {
    throw new DeepSpeedError(
      'GRAPH_INVALID',
      `node ${node.name} (${node.opType}) has ${used} outputs; the operator makes ${results.length}: ${results.map(formatType).join(', ')}`,
    );
  }
  const outputs = results.slice(0, Math.max(used, 1));
  const constants = evaluate(node, inputs, outputs, maxElements);
  return outputs.map((type, i) => {
    const constant = constants?.[i];
    return constant === undefined ? type : { ...type, constant };
  });
}

function typeOf(node: Node, name: string, types: ReadonlyMap<string, ValueType>): ValueType {
  const type = types.get(name);
  if (type !== undefined) return type;
  throw new DeepSpeedError(
    'GRAPH_INVALID',
    `node ${node.name} (${node.opType}) reads '${name}', which nothing before it makes`,
  );
}

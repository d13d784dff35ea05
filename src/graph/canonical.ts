/**
 * Segments that compute the same thing share one compiled program. To see that they do, the values of a
 * segment are renamed in the order in which its nodes meet them; what is left is equal text for equal
 * structure, types, shapes, attributes and constants.
 */
import { createHash } from 'node:crypto';
import type { Attribute, Graph, Node, Tensor, ValueType } from './ir.ts';
import { readsOf } from './topology.ts';

/** What a value is to a segment that does not compute it itself. */
export type Role = 'parameter' | 'activation' | 'side' | 'input' | 'constant';

/** First letter of the formal name; inner values are v, outputs y. */
const letters: Record<Role, string> = {
  parameter: 'p',
  activation: 'x',
  side: 's',
  input: 'i',
  constant: 'c',
};

export interface Canonical {
  /** Values are named p0, x0, s0, i0, c0 (by role), v0 (inner) and y0 (outputs). */
  graph: Graph;
  /** Types by formal name. */
  types: Map<string, ValueType>;
  /** Actual name → formal name. */
  formals: ReadonlyMap<string, string>;
  /** Role of each input, by formal name. */
  roles: ReadonlyMap<string, Role>;
}

/**
 * A segment on its own. `roleOf` says what the values are that its nodes read and do not compute;
 * `outputs` are the values that others need, in a given order.
 */
export function canonicalize(
  nodes: readonly Node[],
  outputs: readonly string[],
  roleOf: (value: string) => Role,
  types: ReadonlyMap<string, ValueType>,
  constants: ReadonlyMap<string, Tensor>,
): Canonical {
  const formals = new Map<string, string>();
  const roles = new Map<string, Role>();
  const counters: Record<string, number> = {};
  const number = (letter: string) => {
    counters[letter] = (counters[letter] ?? -1) + 1;
    return `${letter}${counters[letter]}`;
  };
  outputs.forEach((name) => {
    formals.set(name, number('y'));
  });
  const made = new Set(nodes.flatMap((node) => node.outputs));
  const name = (actual: string): string => {
    if (actual === '') return '';
    const known = formals.get(actual);
    if (known !== undefined) return known;
    const role = made.has(actual) ? undefined : roleOf(actual);
    const formal = number(role === undefined ? 'v' : letters[role]);
    formals.set(actual, formal);
    if (role !== undefined) roles.set(formal, role);
    return formal;
  };
  const renamed = nodes.map((node, i): Node => {
    readsOf(node).forEach(name);
    return {
      name: `${node.opType}_${i}`,
      opType: node.opType,
      domain: node.domain,
      inputs: node.inputs.map(name),
      outputs: node.outputs.map(name),
      attributes: node.attributes,
    };
  });

  const formalTypes = new Map<string, ValueType>();
  const initializers = new Map<string, Tensor>();
  for (const [actual, formal] of formals) {
    const type = types.get(actual);
    if (type !== undefined) formalTypes.set(formal, type);
    if (roles.get(formal) === 'constant') initializers.set(formal, constants.get(actual)!);
  }
  const info = (formal: string) => {
    const { dtype, shape } = formalTypes.get(formal)!;
    return { name: formal, dtype, shape };
  };
  const inputs = [...roles].filter(([, role]) => role !== 'constant').map(([formal]) => formal);
  const graph: Graph = {
    name: 'segment',
    inputs: inputs.map(info),
    outputs: outputs.map((output) => info(formals.get(output)!)),
    initializers,
    nodes: renamed,
    valueInfo: new Map(),
  };
  return { graph, types: formalTypes, formals, roles };
}

/** Equal for graphs that are equal, together with whatever else decides how they are compiled. */
export function graphKey(graph: Graph, ...more: readonly unknown[]): string {
  const text = JSON.stringify([
    graph.inputs,
    graph.outputs,
    [...graph.initializers].map(([name, tensor]) => [name, tensorText(tensor)]),
    graph.nodes.map((node) => [
      node.opType,
      node.domain,
      node.inputs,
      node.outputs,
      attributesText(node.attributes),
    ]),
    more,
  ]);
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

function attributesText(attributes: Record<string, Attribute>): unknown {
  const entries = Object.entries(attributes).sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.map(([name, attribute]) => {
    if (attribute.type === 'tensor') return [name, tensorText(attribute.value)];
    if (attribute.type === 'graph') return [name, graphKey(attribute.value)];
    return [name, attribute.type, attribute.value];
  });
}

function tensorText({ dtype, dims, data }: Tensor): unknown {
  return [dtype, dims, createHash('sha256').update(data).digest('hex')];
}

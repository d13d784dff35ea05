/** Reading and writing node attributes with plain JavaScript values. */
import { DeepSpeedError } from '../errors.ts';
import type { Attribute, Graph, Node, Tensor } from './ir.ts';

export type PlainAttribute =
  | number
  | string
  | readonly number[]
  | readonly string[]
  | Tensor
  | Graph;

/**
 * A JavaScript number does not say whether ONNX means an int or a float, but the attribute's name does:
 * these are the float attributes of ai.onnx, com.microsoft and deepspeed. All others are ints.
 */
const floatAttributes = new Set([
  'alpha',
  'beta',
  'bias',
  'cubic_coeff_a',
  'epsilon',
  'extrapolation_value',
  'gamma',
  'high',
  'lambd',
  'low',
  'mask_filter_value',
  'max',
  'mean',
  'min',
  'momentum',
  'ratio',
  'scale',
  'scales',
  'softcap',
  'spatial_scale',
  'threshold',
  'value_float',
  'value_floats',
]);

/** The typed form of a plain value; `name` decides between int and float. */
export function attribute(name: string, value: PlainAttribute): Attribute {
  if (typeof value === 'string') return { type: 'string', value };
  if (typeof value === 'number') {
    return floatAttributes.has(name)
      ? { type: 'float', value }
      : { type: 'int', value: whole(name, value) };
  }
  if (Array.isArray(value)) return listAttribute(name, value);
  if ('nodes' in value) return { type: 'graph', value };
  return { type: 'tensor', value: value as Tensor };
}

function listAttribute(name: string, list: readonly (number | string)[]): Attribute {
  if (list.length > 0 && list.every((item) => typeof item === 'string')) {
    return { type: 'strings', value: list };
  }
  const numbers = list.map(Number);
  return floatAttributes.has(name)
    ? { type: 'floats', value: numbers }
    : { type: 'ints', value: numbers.map((item) => whole(name, item)) };
}

/** The node's int attribute, or the fallback when it is absent. */
export function intAttribute(node: Node, name: string, fallback: number): number {
  return typed(node, name, 'int')?.value ?? fallback;
}

export function floatAttribute(node: Node, name: string, fallback: number): number {
  return typed(node, name, 'float')?.value ?? fallback;
}

export function stringAttribute(node: Node, name: string, fallback: string): string {
  return typed(node, name, 'string')?.value ?? fallback;
}

/** The node's list of ints, or undefined: an absent list often means something of its own. */
export function intsAttribute(node: Node, name: string): readonly number[] | undefined {
  return typed(node, name, 'ints')?.value;
}

export function tensorAttribute(node: Node, name: string): Tensor | undefined {
  return typed(node, name, 'tensor')?.value;
}

type AttributeOf<T extends Attribute['type']> = Extract<Attribute, { type: T }>;

function typed<T extends Attribute['type']>(
  node: Node,
  name: string,
  type: T,
): AttributeOf<T> | undefined {
  const found = node.attributes[name];
  if (found === undefined) return undefined;
  if (found.type !== type) {
    throw new DeepSpeedError(
      'GRAPH_INVALID',
      `attribute ${name} of node ${node.name} (${node.opType}) is ${found.type}, expected ${type}`,
      { data: { node: node.name, op: node.opType, attribute: name } },
    );
  }
  return found as AttributeOf<T>;
}

function whole(name: string, value: number): number {
  if (Number.isInteger(value)) return value;
  throw new DeepSpeedError('GRAPH_INVALID', `attribute ${name} is an int and cannot be ${value}`);
}

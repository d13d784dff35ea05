/** What a shape rule sees of a node: its attributes, and the types of its inputs. */
import { DeepSpeedError, type ErrorCode } from '../../errors.ts';
import {
  floatAttribute,
  intAttribute,
  intsAttribute,
  stringAttribute,
  tensorAttribute,
} from '../attributes.ts';
import type { DataType, Node, Tensor, ValueType } from '../ir.ts';
import { toNumbers } from '../tensor.ts';

/** Op → types of its outputs; those that the node does not use are ignored. */
export type ShapeRule = (node: Operands) => readonly ValueType[];

export class Operands {
  readonly node: Node;
  private readonly types: readonly (ValueType | undefined)[];

  constructor(node: Node, types: readonly (ValueType | undefined)[]) {
    this.node = node;
    this.types = types;
  }

  /** Number of inputs, absent ones in the middle included. */
  get count(): number {
    return this.types.length;
  }

  has(index: number): boolean {
    return this.types[index] !== undefined;
  }

  optional(index: number): ValueType | undefined {
    return this.types[index];
  }

  input(index: number): ValueType {
    const type = this.types[index];
    if (type === undefined) throw this.mismatch(`input ${index} is missing`);
    return type;
  }

  /** Inputs that are present. */
  present(): ValueType[] {
    return this.types.filter((type) => type !== undefined);
  }

  shape(index: number): readonly number[] {
    return this.input(index).shape;
  }

  dtype(index: number): DataType {
    return this.input(index).dtype;
  }

  /** The elements of an input that must be constant; `meaning` says what for, in the error. */
  values(index: number, meaning: string): number[] {
    const { constant } = this.input(index);
    if (constant !== undefined) return toNumbers(constant);
    throw this.fault(
      'SHAPE_UNKNOWN',
      `its ${meaning}, '${this.node.inputs[index]}', depends on data and is not known before the graph runs`,
    );
  }

  /** Like `values`, or undefined when the input is absent. */
  optionalValues(index: number, meaning: string): number[] | undefined {
    return this.has(index) ? this.values(index, meaning) : undefined;
  }

  int(name: string, fallback: number): number {
    return intAttribute(this.node, name, fallback);
  }

  float(name: string, fallback: number): number {
    return floatAttribute(this.node, name, fallback);
  }

  string(name: string, fallback: string): string {
    return stringAttribute(this.node, name, fallback);
  }

  ints(name: string): readonly number[] | undefined {
    return intsAttribute(this.node, name);
  }

  tensor(name: string): Tensor | undefined {
    return tensorAttribute(this.node, name);
  }

  /** An axis counted from the front. */
  axis(axis: number, rank: number): number {
    if (axis < -rank || axis >= rank) {
      throw this.mismatch(`axis ${axis} does not exist in ${rank} dimensions`);
    }
    return axis < 0 ? axis + rank : axis;
  }

  /** Axes from the attribute `axes` (older opsets) or from an input (newer ones); undefined if neither. */
  axes(inputIndex: number): readonly number[] | undefined {
    return this.ints('axes') ?? this.optionalValues(inputIndex, 'axes');
  }

  require(condition: boolean, message: string): void {
    if (!condition) throw this.mismatch(message);
  }

  mismatch(message: string): DeepSpeedError {
    return this.fault('SHAPE_MISMATCH', message);
  }

  private fault(code: ErrorCode, message: string): DeepSpeedError {
    const { name, opType } = this.node;
    const inputs = this.types.map((type, i) => `${this.node.inputs[i]} ${formatType(type)}`);
    return new DeepSpeedError(
      code,
      `node ${name} (${opType}): ${message}; inputs: ${inputs.join(', ') || 'none'}`,
      { data: { node: name, op: opType, inputs: this.types.map((type) => type?.shape) } },
    );
  }
}

/** The type of an input, for an output like it. */
export function like(node: Operands, index: number): ValueType {
  return { dtype: node.dtype(index), shape: node.shape(index) };
}

/** What an operator gives that writes into a buffer: int32 [1] without meaning. */
export const token: ValueType = { dtype: 'int32', shape: [1] };

/** `float32[2, 3]` */
export function formatType(type: ValueType | undefined): string {
  return type === undefined ? '(absent)' : `${type.dtype}[${type.shape.join(', ')}]`;
}

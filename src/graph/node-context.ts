/** One node together with what is known of its values: what gradient rules, fusions and lowerings read. */
import { DeepSpeedError } from '../errors.ts';
import type { Emitter } from './emitter.ts';
import type { Node, Tensor } from './ir.ts';
import { toNumbers } from './tensor.ts';

export class NodeContext {
  readonly node: Node;
  readonly emit: Emitter;

  constructor(node: Node, emit: Emitter) {
    this.node = node;
    this.emit = emit;
  }

  /** Name of input i; an error when it is absent. */
  input(index: number): string {
    return this.present('input', this.node.inputs[index], index);
  }

  /** Name of output i; an error when it is absent. */
  output(index: number): string {
    return this.present('output', this.node.outputs[index], index);
  }

  /** Is the optional input i given? */
  has(index: number): boolean {
    return Boolean(this.node.inputs[index]);
  }

  shape(index: number): readonly number[] {
    return this.emit.shape(this.input(index));
  }

  /** Input i as a constant, or undefined. */
  constant(index: number): Tensor | undefined {
    return this.has(index) ? this.emit.type(this.input(index)).constant : undefined;
  }

  /** The numbers of a constant input; undefined when it is absent, an error when it is not constant. */
  numbers(index: number): number[] | undefined {
    if (!this.has(index)) return undefined;
    const tensor = this.constant(index);
    if (tensor !== undefined) return toNumbers(tensor);
    throw new DeepSpeedError(
      'GRAPH_INVALID',
      `node '${this.node.name}' (${this.node.opType}) needs its input ${index} ` +
        `('${this.input(index)}') to be constant`,
      {
        fix: 'Export the model so that this input follows from shapes alone.',
        data: this.facts,
      },
    );
  }

  /** For the `data` of errors. */
  get facts(): { node: string; op: string } {
    return { node: this.node.name, op: this.node.opType };
  }

  private present(side: string, name: string | undefined, index: number): string {
    if (name) return name;
    throw new DeepSpeedError(
      'GRAPH_INVALID',
      `node '${this.node.name}' (${this.node.opType}) has no ${side} ${index}`,
      { data: this.facts },
    );
  }
}

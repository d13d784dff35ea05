/** Operators that write into bound buffers: what they add in plain operators, and the addition itself. */
import type { Emitter } from '../../emitter.ts';
import { scatterRows } from '../../gradient/scatter.ts';
import type { Node, ValueInfo } from '../../ir.ts';
import type { NodeContext } from '../../node-context.ts';
import { operatorKey } from '../../operator-key.ts';
import { lowerLinearCrossEntropyGrad } from './cross-entropy.ts';
import { lowerMatMulAccumulate } from './product.ts';

const operators = new Set([
  'deepspeed.Accumulate',
  'deepspeed.EmbeddingGradAccumulate',
  'deepspeed.LinearCrossEntropyGrad',
  'deepspeed.MatMulAccumulate',
]);

export function isAccumulation(node: Node): boolean {
  return operators.has(operatorKey(node));
}

/** Where a gradient goes once it is computed. */
interface Sink {
  /**
   * first ≠ 0 ? gradient : buffer + gradient, as the buffer's content from now on.
   *
   * @param after token of a write that the result stands for as well
   * @returns the write's token
   */
  add(
    c: NodeContext,
    gradient: string,
    bufferIndex: number,
    firstIndex: number,
    after?: string,
  ): string;
}

/** Buffers are written in place, by the operator that can. */
export class InPlace implements Sink {
  private readonly emit: Emitter;

  constructor(emit: Emitter) {
    this.emit = emit;
  }

  add(
    c: NodeContext,
    gradient: string,
    bufferIndex: number,
    firstIndex: number,
    after?: string,
  ): string {
    const inputs = [gradient, c.input(bufferIndex), c.input(firstIndex)];
    if (after !== undefined) inputs.push(after);
    const token = { dtype: 'int32', shape: [1] } as const;
    return this.emit.one('Accumulate', inputs, token, {}, 'deepspeed');
  }
}

/** Buffers are inputs, and what they would hold is an output: the content after the accumulations so far. */
export class Returned implements Sink {
  private readonly emit: Emitter;
  private readonly content = new Map<string, string>();

  constructor(emit: Emitter) {
    this.emit = emit;
  }

  add(c: NodeContext, gradient: string, bufferIndex: number, firstIndex: number): string {
    const { emit } = this;
    const buffer = c.input(bufferIndex);
    const first = emit.cast(c.input(firstIndex), 'bool');
    const before = this.content.get(buffer) ?? buffer;
    this.content.set(buffer, emit.add(emit.keepWhere(emit.unary('Not', first), before), gradient));
    return noToken(emit);
  }

  /** `updated.<parameter>` of each buffer. */
  results(): { nodes: Node[]; outputs: ValueInfo[] } {
    const nodes: Node[] = [];
    const outputs: ValueInfo[] = [];
    for (const [buffer, content] of this.content) {
      const name = `updated.${buffer.replace(/^gradient_buffer\./, '')}`;
      const { dtype, shape } = this.emit.type(content);
      this.emit.declare(name, { dtype, shape });
      nodes.push({
        name,
        opType: 'Identity',
        domain: '',
        inputs: [content],
        outputs: [name],
        attributes: {},
      });
      outputs.push({ name, dtype, shape });
    }
    return { nodes, outputs };
  }
}

/** A value for each output of the node. */
export function lowerAccumulation(c: NodeContext, sink: Sink): string[] {
  const { emit } = c;
  switch (operatorKey(c.node)) {
    case 'deepspeed.Accumulate':
      return [sink.add(c, c.input(0), 1, 2)];
    case 'deepspeed.EmbeddingGradAccumulate': {
      const shape = emit.shape(c.input(2));
      return [sink.add(c, scatterRows(emit, c.input(0), c.input(1), shape), 2, 3)];
    }
    case 'deepspeed.LinearCrossEntropyGrad': {
      const { dX, dW } = lowerLinearCrossEntropyGrad(c);
      return [dX, c.has(5) ? sink.add(c, dW, 5, 6) : noToken(emit)];
    }
    default: {
      const { weight, bias } = lowerMatMulAccumulate(c);
      const written = c.has(5) ? sink.add(c, bias, 5, 6) : undefined;
      return [sink.add(c, weight, 2, 3, written)];
    }
  }
}

function noToken(emit: Emitter): string {
  return emit.constant('int32', [1], [0]);
}

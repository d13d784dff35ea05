/** Operators that write into bound buffers, as additions whose results are new values. */
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

/** The content of every buffer after the accumulations lowered so far. */
export class Accumulations {
  private readonly emit: Emitter;
  private readonly content = new Map<string, string>();

  constructor(emit: Emitter) {
    this.emit = emit;
  }

  /** A value for each output of the node. */
  lower(c: NodeContext): string[] {
    switch (operatorKey(c.node)) {
      case 'deepspeed.Accumulate':
        return [this.add(c, c.input(0), 1, 2)];
      case 'deepspeed.EmbeddingGradAccumulate': {
        const shape = this.emit.shape(c.input(2));
        return [this.add(c, scatterRows(this.emit, c.input(0), c.input(1), shape), 2, 3)];
      }
      case 'deepspeed.LinearCrossEntropyGrad': {
        const { dX, dW } = lowerLinearCrossEntropyGrad(c);
        return [dX, c.has(5) ? this.add(c, dW, 5, 6) : this.token()];
      }
      default: {
        const { weight, bias } = lowerMatMulAccumulate(c);
        if (c.has(5)) this.add(c, bias, 5, 6);
        return [this.add(c, weight, 2, 3)];
      }
    }
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

  /** first ≠ 0 ? gradient : buffer + gradient, as the buffer's content from now on. */
  private add(c: NodeContext, gradient: string, bufferIndex: number, firstIndex: number): string {
    const { emit } = this;
    const buffer = c.input(bufferIndex);
    const first = emit.cast(c.input(firstIndex), 'bool');
    const before = this.content.get(buffer) ?? buffer;
    this.content.set(buffer, emit.add(emit.keepWhere(emit.unary('Not', first), before), gradient));
    return this.token();
  }

  private token(): string {
    return this.emit.constant('int32', [1], [0]);
  }
}

/** Gradients of parameters end in bound buffers, not in outputs. */
import type { Emitter } from '../emitter.ts';
import type { ValueInfo } from '../ir.ts';
import type { Gradient } from './rule.ts';
import { unbroadcast } from './unbroadcast.ts';

interface Accumulation {
  buffer: ValueInfo;
  first: ValueInfo;
  /** The token of the last write so far. */
  token: string;
}

/**
 * Emits deepspeed.Accumulate and EmbeddingGradAccumulate. A parameter that is used several times in the
 * graph is written several times, in the order the walk meets the uses; each write after the first
 * reads the token of the one before, which both orders them and says "add".
 */
export class ParameterGradients {
  private readonly emit: Emitter;
  private readonly byParameter = new Map<string, Accumulation>();

  constructor(emit: Emitter) {
    this.emit = emit;
  }

  add(parameter: string, gradient: Exclude<Gradient, undefined>): void {
    const { emit } = this;
    const known = this.byParameter.get(parameter);
    const { buffer, first } = known ?? this.open(parameter);
    const begins =
      known === undefined ? first.name : emit.mul(known.token, emit.constant('int32', [1], [0]));
    const token = { dtype: 'int32', shape: [1] } as const;
    const written =
      typeof gradient === 'string'
        ? emit.one(
            'Accumulate',
            [unbroadcast(emit, gradient, emit.shape(parameter)), buffer.name, begins],
            token,
            {},
            'deepspeed',
          )
        : emit.one(
            'EmbeddingGradAccumulate',
            [gradient.rows, gradient.indices, buffer.name, begins],
            token,
            {},
            'deepspeed',
          );
    this.byParameter.set(parameter, { buffer, first, token: written });
  }

  /** `gradient_buffer.<p>` and `first.<p>` of each parameter with a gradient. */
  inputs(): ValueInfo[] {
    return [...this.byParameter.values()].flatMap(({ buffer, first }) => [buffer, first]);
  }

  /** `token.<p>` → the value of the last write's token. */
  tokens(): Map<string, string> {
    return new Map([...this.byParameter].map(([name, { token }]) => [`token.${name}`, token]));
  }

  private open(parameter: string): Pick<Accumulation, 'buffer' | 'first'> {
    const { dtype, shape } = this.emit.type(parameter);
    const buffer: ValueInfo = { name: `gradient_buffer.${parameter}`, dtype, shape };
    const first: ValueInfo = { name: `first.${parameter}`, dtype: 'int32', shape: [1] };
    this.emit.declare(buffer.name, { dtype, shape });
    this.emit.declare(first.name, { dtype: 'int32', shape: [1] });
    return { buffer, first };
  }
}

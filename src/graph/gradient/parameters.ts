/** Gradients of parameters end in bound buffers, not in outputs. */
import type { Emitter } from '../emitter.ts';
import type { ValueInfo } from '../ir.ts';
import type { Gradient, GradientPlace } from './rule.ts';
import { unbroadcast } from './unbroadcast.ts';

interface Accumulation {
  buffer: ValueInfo;
  first: ValueInfo;
  /** The token of the last write so far; undefined before the first. */
  token: string | undefined;
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
    if (typeof gradient === 'object' && 'token' in gradient) {
      this.byParameter.set(parameter, { ...this.opened(parameter), token: gradient.token });
      return;
    }
    const { buffer, first } = this.place(parameter);
    const token = { dtype: 'int32', shape: [1] } as const;
    const [operator, inputs] =
      typeof gradient === 'string'
        ? ['Accumulate', [unbroadcast(emit, gradient, emit.shape(parameter))]]
        : ['EmbeddingGradAccumulate', [gradient.rows, gradient.indices]];
    const written = emit.one(operator, [...inputs, buffer, first], token, {}, 'deepspeed');
    this.byParameter.set(parameter, { ...this.opened(parameter), token: written });
  }

  /** What the next node that writes the parameter's gradient takes. */
  place(parameter: string): GradientPlace {
    const { emit } = this;
    const { buffer, first, token } = this.opened(parameter);
    const begins =
      token === undefined ? first.name : emit.mul(token, emit.constant('int32', [1], [0]));
    return { buffer: buffer.name, first: begins };
  }

  /** `gradient_buffer.<p>` and `first.<p>` of each parameter with a gradient. */
  inputs(): ValueInfo[] {
    return this.written().flatMap(([, { buffer, first }]) => [buffer, first]);
  }

  /** `token.<p>` → the value of the last write's token. */
  tokens(): Map<string, string> {
    return new Map(this.written().map(([name, { token }]) => [`token.${name}`, token!]));
  }

  private written(): [string, Accumulation][] {
    return [...this.byParameter].filter(([, { token }]) => token !== undefined);
  }

  private opened(parameter: string): Accumulation {
    const known = this.byParameter.get(parameter);
    if (known !== undefined) return known;
    const { dtype, shape } = this.emit.type(parameter);
    const buffer: ValueInfo = { name: `gradient_buffer.${parameter}`, dtype, shape };
    const first: ValueInfo = { name: `first.${parameter}`, dtype: 'int32', shape: [1] };
    this.emit.declare(buffer.name, { dtype, shape });
    this.emit.declare(first.name, { dtype: 'int32', shape: [1] });
    const accumulation = { buffer, first, token: undefined };
    this.byParameter.set(parameter, accumulation);
    return accumulation;
  }
}

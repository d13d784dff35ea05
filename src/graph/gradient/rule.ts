/** What a gradient rule is given and what it returns. */
import { DeepSpeedError } from '../../errors.ts';
import type { Emitter } from '../emitter.ts';
import type { Node } from '../ir.ts';
import { NodeContext } from '../node-context.ts';

/**
 * The gradient of a table from which rows were gathered: row `indices[t]` receives `rows[t]`. For a
 * trainable [V, D] table it goes straight into the gradient buffer, and no [V, D] temporary exists.
 */
export interface RowGradient {
  /** Value of shape [T, D]. */
  rows: string;
  /** int64 value of shape [T]. */
  indices: string;
}

/** A gradient that the rule's own node adds to the parameter's buffer (see RuleContext.place). */
export interface WrittenGradient {
  /** The node's token. */
  token: string;
}

export type Gradient = string | RowGradient | WrittenGradient | undefined;

/** Where a parameter's gradient is accumulated: both are inputs of the node that writes. */
export interface GradientPlace {
  buffer: string;
  first: string;
}

/**
 * Emits the gradients of a node's inputs, in input order. A gradient may still have the shape that
 * broadcasting gave it: the walk sums it back. `undefined` means that none flows into that input.
 */
export type GradientRule = (context: RuleContext) => readonly Gradient[];

/** One node on the way back. */
export class RuleContext extends NodeContext {
  private readonly outputGradients: readonly (string | undefined)[];
  private readonly wanted: (value: string) => boolean;
  private readonly placeOf: (value: string) => GradientPlace | undefined;

  constructor(
    node: Node,
    emit: Emitter,
    outputGradients: readonly (string | undefined)[],
    wanted: (value: string) => boolean,
    placeOf: (value: string) => GradientPlace | undefined,
  ) {
    super(node, emit);
    this.outputGradients = outputGradients;
    this.wanted = wanted;
    this.placeOf = placeOf;
  }

  /** Is the gradient of input i of use to anyone? */
  needs(index: number): boolean {
    return this.has(index) && this.wanted(this.input(index));
  }

  /** `make()` when input i needs a gradient. */
  when(index: number, make: () => Gradient): Gradient {
    return this.needs(index) ? make() : undefined;
  }

  /** The buffer for the gradient of input i; undefined when it is no parameter with one. */
  place(index: number): GradientPlace | undefined {
    return this.needs(index) ? this.placeOf(this.input(index)) : undefined;
  }

  /** Gradient of output i, or undefined when nothing flows back through it. */
  gradient(index: number): string | undefined {
    return this.outputGradients[index];
  }

  /** Gradient of the first output, for rules that know no other. */
  get dY(): string {
    const extra = this.outputGradients.findIndex((gradient, i) => i > 0 && gradient !== undefined);
    if (extra > 0) throw this.refuse(`a gradient through output ${extra}`);
    return this.outputGradients[0]!;
  }

  /** The error for a form of the operator that the rule does not cover. */
  refuse(what: string): DeepSpeedError {
    const { name, opType } = this.node;
    return new DeepSpeedError(
      'NOT_AVAILABLE_YET',
      `the gradient of node '${name}' (${opType}) with ${what} is not available yet`,
      {
        fix: 'Freeze the parameters before the node, or export the model without it.',
        data: this.facts,
      },
    );
  }
}

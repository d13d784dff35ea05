import type { Capability, Host, HostParameter } from '../../hooks/index.ts';

/** A trainable array as its owner announces it. */
export interface ArrayParameter {
  readonly name: string;
  readonly shape: readonly number[];
  /** Index into the recipe's groups; default 0. */
  readonly group?: number;
}

/**
 * A host whose forward and backward belong to somebody else: all gradients appear at once, so that the
 * whole model is one segment and no capability can be promised.
 */
export class ArrayHost implements Host {
  readonly capabilities: ReadonlySet<Capability> = new Set();
  readonly segments: readonly string[] = ['model'];
  readonly parameters: readonly HostParameter[];
  readonly name: string;

  constructor(name: string, parameters: readonly ArrayParameter[]) {
    this.name = name;
    this.parameters = parameters.map((parameter) => ({
      name: parameter.name,
      shape: parameter.shape,
      segments: [0],
      group: parameter.group ?? 0,
    }));
  }
}

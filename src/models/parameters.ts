/** What a model's parameters are called, how large they are, and how they start. */

/** How a parameter is initialised; `std` in the units of the parameter. */
export type Initialization = { kind: 'normal'; std: number } | { kind: 'zeros' } | { kind: 'ones' };

export interface ParameterSpec {
  /** The name in Hugging Face's model.safetensors, and of the initializer in our graphs. */
  name: string;
  shape: readonly number[];
  init: Initialization;
}

export const zeros: Initialization = { kind: 'zeros' };
export const ones: Initialization = { kind: 'ones' };

export function normal(std: number): Initialization {
  return { kind: 'normal', std };
}

/** Number of elements of one parameter or of all. */
export function countParameters(specs: readonly ParameterSpec[]): number {
  return specs.reduce((sum, spec) => sum + spec.shape.reduce((a, b) => a * b, 1), 0);
}

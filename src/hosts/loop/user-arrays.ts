/** What a loop hands over: gradients and parameters in arrays of its own, and what may be wrong with them. */
import { DeepSpeedError } from '../../errors.ts';
import { nearest } from '../../nearest.ts';
import type { Runtime } from '../../runtime.ts';
import { gatherJsonSync } from '../../strategies/agree.ts';
import type { ArraySession } from './array-session.ts';

/** Gradients by parameter name; null for a parameter that the loss does not depend on. */
export type Gradients = Readonly<Record<string, Float32Array | null>>;

export type Parameters = ReadonlyMap<string, Float32Array>;

/** One gradient for each parameter and no others. */
export function requireGradients(parameters: Parameters, gradients: Gradients): void {
  for (const name of Object.keys(gradients)) {
    if (parameters.has(name)) continue;
    const near = nearest(name, parameters.keys());
    throw invalid(`there is no parameter ${name}${near ? `; did you mean ${near}?` : ''}`);
  }
  for (const [name, values] of parameters) {
    const gradient = gradients[name];
    if (gradient === null) continue;
    if (!(gradient instanceof Float32Array)) {
      throw invalid(
        `the gradient of ${name} is ${gradient === undefined ? 'missing' : 'no Float32Array'}`,
      );
    }
    if (gradient.length !== values.length) {
      throw invalid(
        `the gradient of ${name} has ${gradient.length} elements, the parameter ${values.length}`,
      );
    }
  }
}

function invalid(message: string): DeepSpeedError {
  return new DeepSpeedError('ARGUMENTS_INVALID', `backward(): ${message}`, {
    fix: 'Give one Float32Array for each parameter, by its name; null where the loss does not depend on it.',
  });
}

/**
 * The engine's values win at every step: a change that it does not know of would be lost.
 *
 * @param step the step to come, from 1
 */
export function requireUnchanged(
  parameters: Parameters,
  session: ArraySession,
  step: number,
): void {
  for (const [name, values] of parameters) {
    if (bytes(values).equals(bytes(session.parameter(name)))) continue;
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      `step ${step}: the parameter ${name} was changed outside of step()`,
      { fix: 'Call `await engine.parametersReplaced()` after writing into parameters.' },
    );
  }
}

function bytes(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

/**
 * Stops all ranks with the same words. Of earlier micro batches only the sum is left, which knows its parameters
 * and not its ranks.
 *
 * @param last gradients of the last of `microBatches`
 */
export function nameNonFinite(
  runtime: Runtime,
  session: ArraySession,
  parameters: Parameters,
  { step, last, microBatches }: { step: number; last: Gradients; microBatches: number },
): never {
  const own = [...parameters.keys()].find((name) => !(last[name]?.every(Number.isFinite) ?? true));
  const all = gatherJsonSync(runtime, { last: own ?? null, sum: session.nonFiniteSum() });
  const onRanks = all.flatMap(({ last: name }, rank) => (name ? [`${name} on rank ${rank}`] : []));
  const inSum = [...new Set(all.flatMap(({ sum }) => sum ?? []))];
  const origin =
    microBatches > 1
      ? 'in an earlier micro batch than the last, or their sum overflows'
      : 'their sum overflows';
  const named = onRanks.length > 0 ? onRanks.join(', ') : [...inSum, origin].join(', ');
  throw new DeepSpeedError('LOSS_NOT_FINITE', `step ${step}: gradients are not finite: ${named}`, {
    data: { step },
  });
}

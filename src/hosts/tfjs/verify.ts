import { DeepSpeedError } from '../../errors.ts';
import { intersect } from '../../layout.ts';
import type { HostContext } from './context.ts';
import type { OptimizerSession } from './optimizer-session.ts';

/** What the whole batch gives on one rank. */
export interface WholeBatch {
  /** Loss, then metrics. */
  readonly numbers: readonly number[];
  /** By variable name; null where the loss does not depend on it. */
  readonly gradients: ReadonlyMap<string, Float32Array | null>;
}

/**
 * Sums over rows in another order: fp32 rounds at 2⁻²⁴, and a few thousand additions of numbers of one size
 * lose some 10⁻⁵ of it. What splits wrongly is off by far more (sums by the number of ranks, batch
 * statistics by tens of percent, one wrong row by 1/rows).
 */
const tolerance = 1e-3;
/** Of the largest gradient of the model: below it lies the noise of gradients that are zero on paper. */
const noise = 1e-6;
/** Rounding of gradients on the wire, relative. */
const wireRounding = { float32: 0, bfloat16: 2 ** -7, float16: 2 ** -9 };

/** Names of the numbers that differ, with both values. */
export function differingNumbers(
  names: readonly string[],
  whole: readonly number[],
  split: ArrayLike<number>,
): string[] {
  return names.flatMap((name, index) => {
    const [a, b] = [whole[index]!, split[index]!];
    const same = Object.is(a, b) || Math.abs(a - b) <= tolerance * Math.abs(a) + noise;
    return same ? [] : [`${name} is ${a} of the whole batch and ${b} of its parts`];
  });
}

/**
 * Compares the reduced gradient with that of the whole batch, in the elements that this rank owns, after
 * the last backward and before the optimizer.
 */
export function differingGradients(
  context: HostContext,
  session: OptimizerSession,
  whole: WholeBatch,
): string[] {
  const { engine, rank } = context.runtime;
  const { gradients, session: inner } = session.arrays;
  const { shard, after } = gradients.reduced();
  for (const work of after) engine.waitSync(work);
  const { buffer, byteOffset, count } = shard!;
  const reduced = new Float32Array(buffer.view(), byteOffset, count);
  const own = inner.layout.shards[rank]!;
  const scale = gradients.lossScale;
  let largest = 0;
  for (const values of whole.gradients.values()) {
    if (values) largest = Math.max(largest, maximum(values));
  }
  const relative = tolerance + wireRounding[session.settings.precision.gradientType];
  const found: string[] = [];
  for (const [name, values] of whole.gradients) {
    const slot = inner.layout.byName.get(name)!;
    const part = intersect(slot, own);
    const allowed = relative * (values ? maximum(values) : 0) + noise * largest;
    for (let index = 0; index < part.count; index += 1) {
      const expected = values ? values[part.offset - slot.offset + index]! : 0;
      const got = reduced[part.offset - own.offset + index]! / scale;
      if (Math.abs(expected - got) <= allowed || Object.is(expected, got)) continue;
      found.push(
        `the gradient of ${name} is ${expected} of the whole batch and ${got} of its parts, at element ${part.offset - slot.offset + index}`,
      );
      break;
    }
  }
  return found;
}

function maximum(values: Float32Array): number {
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  return largest;
}

/** Stops all ranks when any found a difference. */
export function requireNone(model: string, found: readonly (readonly string[])[]): void {
  const all = [...new Set(found.flat())];
  if (all.length === 0) return;
  const more = all.length > 3 ? `; and ${all.length - 3} more` : '';
  throw new DeepSpeedError(
    'FIRST_BATCH_DIFFERS',
    `the first batch of ${model} does not split over ranks: ${all.slice(0, 3).join('; ')}${more}`,
    { data: { model, differences: all } },
  );
}

import { DeepSpeedError } from '../../errors.ts';
import { intersect } from '../../layout.ts';
import type { HostContext } from './context.ts';
import type { Moved } from './forward-moves.ts';
import type { NamedGradients } from './library.ts';
import type { OptimizerSession } from './optimizer-session.ts';

/** What the whole batch gives on one rank. */
export interface WholeBatch {
  /** Loss, then metrics. */
  readonly numbers: readonly number[];
  /** By variable name; null where the loss does not depend on it. */
  readonly gradients: ReadonlyMap<string, Float32Array | null>;
  readonly moved: readonly Moved[];
  /** The numbers of another forward pass over it. */
  readonly again: readonly number[];
}

/**
 * Sums over rows in another order: fp32 rounds at 2⁻²⁴, and a few thousand additions of numbers of one size
 * lose some 10⁻⁵ of it. What splits wrongly is off by far more (sums by the number of ranks, batch
 * statistics by tens of percent, one wrong row by 1/rows).
 */
const tolerance = 1e-3;
/** Of the largest gradient of the model: below it lies the noise of gradients that are zero on paper. */
const noise = 1e-6;
/** Of the same sums in the same order, where a backend's threads add them up: a few roundings of fp32. */
const repetition = 1e-6;
/** Rounding of gradients on the wire, relative. */
const wireRounding = { float32: 0, bfloat16: 2 ** -7, float16: 2 ** -9 };

/** Names of the numbers that differ, with both values. A number whose name is null is not compared. */
export function differingNumbers(
  names: readonly (string | null)[],
  whole: readonly number[],
  split: ArrayLike<number>,
): string[] {
  return names.flatMap((name, index) => {
    const [a, b] = [whole[index]!, split[index]!];
    const same = Object.is(a, b) || Math.abs(a - b) <= tolerance * Math.abs(a) + noise;
    return same || name === null
      ? []
      : [`${name} is ${a} of the whole batch and ${b} of its parts`];
  });
}

/**
 * Names of the numbers that are others when the same rows are computed again, from the same variables and the same
 * random numbers: something counts its calls, or keeps what it has seen (a copy of the script's own `Math.random` does). One process calls it less often.
 */
export function differingAgain(
  names: readonly (string | null)[],
  first: readonly number[],
  again: readonly number[],
): string[] {
  return names.flatMap((name, index) => {
    const [a, b] = [first[index]!, again[index]!];
    if (name === null || Object.is(a, b) || Math.abs(a - b) <= repetition * Math.abs(a)) return [];
    return [
      `${name} is ${a} of the whole batch and ${b} when it is computed once more: a layer, loss or metric keeps state of its own from call to call, or draws from a copy of a Math.random that the script has replaced`,
    ];
  });
}

/** What the forward passes of the ranks' parts have made of variables, beside what the whole batch's has. */
export function differingMoves(moved: readonly Moved[]): string[] {
  return moved.flatMap(({ variable, values }) => {
    const split = variable.dataSync();
    const allowed = tolerance * maximum(values) + noise;
    const at = values.findIndex((value, index) => !(Math.abs(value - split[index]!) <= allowed));
    if (at < 0) return [];
    return [
      `${variable.name} moves to ${values[at]} with the whole batch and to ${split[at]} with its parts, at element ${at}`,
    ];
  });
}

/** A part of a variable's gradient: elements from `start` on. */
interface GradientPart {
  readonly start: number;
  readonly values: Float32Array;
}

/**
 * Compares the gradient of all ranks with that of the whole batch, after the last backward and before the
 * optimizer: what the reduction left here, or, where it is compressed and hence another gradient on purpose,
 * what goes into it.
 *
 * @param own this rank's gradients of its micro batches, as they went to the engine
 */
export function differingGradients(
  context: HostContext,
  session: OptimizerSession,
  whole: WholeBatch,
  own: readonly NamedGradients[],
): string[] {
  const compressed = session.settings.config?.compression != null;
  const partOf = compressed ? summed(context, own) : reduced(context, session);
  const scale = session.arrays.gradients.lossScale;
  let largest = 0;
  for (const values of whole.gradients.values()) {
    if (values) largest = Math.max(largest, maximum(values));
  }
  const relative = tolerance + wireRounding[session.settings.precision.gradientType];
  const found: string[] = [];
  for (const { name, size } of session.variables) {
    const values = whole.gradients.get(name);
    const part = partOf(name, size);
    const allowed = relative * (values ? maximum(values) : 0) + noise * largest;
    for (const [index, value] of part.values.entries()) {
      const expected = values ? values[part.start + index]! : 0;
      const got = value / scale;
      if (Math.abs(expected - got) <= allowed || Object.is(expected, got)) continue;
      found.push(
        `the gradient of ${name} is ${expected} of the whole batch and ${got} of its parts, at element ${part.start + index}`,
      );
      break;
    }
  }
  return found;
}

/** The elements that this rank owns, from the reduction. */
function reduced(context: HostContext, session: OptimizerSession): (name: string) => GradientPart {
  const { engine, rank } = context.runtime;
  const { gradients, session: inner } = session.arrays;
  const { shard, after } = gradients.reduced();
  for (const work of after) engine.waitSync(work);
  const { buffer, byteOffset, count } = shard!;
  const elements = new Float32Array(buffer.view(), byteOffset, count);
  const shardOfRank = inner.layout.shards[rank]!;
  return (name) => {
    const slot = inner.layout.byName.get(name)!;
    const { offset, count } = intersect(slot, shardOfRank);
    const from = offset - shardOfRank.offset;
    return { start: offset - slot.offset, values: elements.subarray(from, from + count) };
  };
}

/** All elements, added up over micro batches and ranks. */
function summed(
  { runtime }: HostContext,
  own: readonly NamedGradients[],
): (name: string, size: number) => GradientPart {
  return (name, size) => {
    const sum = new Float32Array(size);
    for (const gradients of own) {
      const values = gradients[name]?.dataSync();
      for (let index = 0; values && index < size; index += 1) sum[index]! += values[index]!;
    }
    runtime.communicator.allReduce(sum);
    return { start: 0, values: sum };
  };
}

function maximum(values: Iterable<number>): number {
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

import { DeepSpeedError } from './errors.ts';
import {
  elementCount,
  type FrozenParameter,
  type HostParameter,
  type TensorPart,
} from './hooks/index.ts';
import type { NativeBuffer } from './native/index.ts';

/**
 * The one table that every ZeRO stage reads: where each parameter lies in the flat buffer, and which
 * part of the buffer each rank owns. Parameters lie in the order in which backward completes their
 * gradients, so that a bucket is a contiguous stretch that becomes whole at one moment. Shards are
 * equal slices; a parameter may straddle two of them (Rajbhandari et al., ZeRO, 1910.02054, section 5).
 */
export interface Slot {
  readonly name: string;
  readonly shape: readonly number[];
  /** Elements. */
  readonly offset: number;
  readonly count: number;
  readonly group: number;
  readonly part?: TensorPart;
}

export interface Shard {
  /** Elements. */
  readonly offset: number;
  readonly count: number;
}

export interface FlatLayout {
  readonly slots: readonly Slot[];
  readonly byName: ReadonlyMap<string, Slot>;
  /** The slots of each tensor by its name, in the order of its elements: several for one in tiles. */
  readonly tensors: ReadonlyMap<string, readonly Slot[]>;
  /** Elements of the flat buffer: padded so that all shards are equal. */
  readonly total: number;
  /** Elements of parameters alone. */
  readonly parameterCount: number;
  readonly shards: readonly Shard[];
}

/** Slots and shards start at multiples of at least this many elements: one cache line of fp32. */
export const slotAlignment = 16;

export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** What the layout needs to know of a tensor. */
export type LaidOut = Pick<HostParameter, 'name' | 'shape' | 'group' | 'part'>;

/** Parameters that training does not change: fp32, by a layout of their own. */
export interface FrozenParameters {
  readonly layout: FlatLayout;
  /** All of them. Allocated when first looked at, which a strategy that shards them never does. */
  readonly buffer: NativeBuffer;
}

/**
 * Lays parameters out back to back and cuts the buffer into `ranks` equal shards.
 *
 * @param alignment of slots and shards, in elements: more where they are read from disk one by one
 */
export function flatLayout(
  parameters: readonly LaidOut[],
  ranks: number,
  alignment = slotAlignment,
): FlatLayout {
  const slots: Slot[] = [];
  const byName = new Map<string, Slot>();
  let offset = 0;
  let parameterCount = 0;
  for (const { name, shape, group, part } of parameters) {
    const count = elementCount(shape);
    if (byName.has(name)) {
      throw new DeepSpeedError('INTERNAL', `internal: parameter ${name} is in the layout twice`);
    }
    const slot = { name, shape, offset, count, group, ...(part && { part }) };
    slots.push(slot);
    byName.set(name, slot);
    parameterCount += count;
    offset = alignUp(offset + count, alignment);
  }
  const total = alignUp(offset, alignment * ranks);
  const size = total / ranks;
  const shards = Array.from({ length: ranks }, (_, rank) => ({ offset: rank * size, count: size }));
  return { slots, byName, tensors: tensorsOf(slots), total, parameterCount, shards };
}

/** The layout of what training does not change; null where it changes everything. */
export function frozenLayout(
  frozen: readonly FrozenParameter[] | undefined,
  ranks: number,
  alignment = slotAlignment,
): FlatLayout | null {
  if (!frozen || frozen.length === 0) return null;
  const parameters = frozen.map((parameter) => ({ ...parameter, group: 0 }));
  return flatLayout(parameters, ranks, alignment);
}

/** The tensor that a slot is of, or a part of. */
export function tensorOf({ name, shape, part }: Pick<Slot, 'name' | 'shape' | 'part'>): {
  name: string;
  shape: readonly number[];
  /** Its element where the slot begins. */
  start: number;
} {
  return part ? { ...part, name: part.of } : { name, shape, start: 0 };
}

/** The elements of a tensor from those of its slots. */
export function joined(
  slots: readonly Slot[],
  read: (slot: Slot) => Float32Array,
): Float32Array<ArrayBuffer> {
  const values = new Float32Array(slots.reduce((sum, { count }) => sum + count, 0));
  for (const slot of slots) values.set(read(slot), tensorOf(slot).start);
  return values;
}

function tensorsOf(slots: readonly Slot[]): Map<string, Slot[]> {
  const tensors = new Map<string, Slot[]>();
  for (const slot of slots) {
    const { name } = tensorOf(slot);
    tensors.set(name, [...(tensors.get(name) ?? []), slot]);
  }
  for (const parts of tensors.values()) {
    parts.sort((a, b) => tensorOf(a).start - tensorOf(b).start);
  }
  return tensors;
}

/** The part of [offset, offset + count) inside `shard`; count 0 when they do not meet. */
export function intersect(range: Shard, shard: Shard): Shard {
  const start = Math.max(range.offset, shard.offset);
  const end = Math.min(range.offset + range.count, shard.offset + shard.count);
  return end > start ? { offset: start, count: end - start } : { offset: start, count: 0 };
}

/** A stretch of elements of one parameter group. */
export type GroupRange = Pick<Slot, 'offset' | 'count' | 'group'>;

/** Every parameter as a stretch of its own, for optimizers that look at whole tensors. */
export function tensorRanges({ slots }: FlatLayout): GroupRange[] {
  return slots
    .filter(({ count }) => count > 0)
    .map(({ offset, count, group }) => ({ offset, count, group }));
}

/**
 * What norms and the optimizer walk: stretches of one parameter group inside `shard`, offsets relative
 * to it. Only true neighbours are merged: the padding between slots may hold anything, since windows
 * of ZeRO 2 serve one bucket after another.
 */
export function groupRanges(layout: FlatLayout, shard: Shard): GroupRange[] {
  const ranges: { offset: number; count: number; group: number }[] = [];
  for (const slot of layout.slots) {
    const part = intersect(slot, shard);
    if (part.count === 0) continue;
    const offset = part.offset - shard.offset;
    const last = ranges.at(-1);
    if (last && last.group === slot.group && last.offset + last.count === offset) {
      last.count += part.count;
    } else ranges.push({ offset, count: part.count, group: slot.group });
  }
  return ranges;
}

import type { Location, ParameterOwner } from '../../hooks/index.ts';
import { type FlatLayout, intersect, type Shard, type Slot } from '../../layout.ts';
import type { Region, Work } from '../../native/contract.ts';
import { type HeldPart, inMemory, placesOf, writePlace } from '../held.ts';
import { gatherShards } from '../zero/gather.ts';
import type { StorageType } from './precision.ts';
import type { MemoryWeights, WeightsOptions } from './weights.ts';
import { floatsOf } from './widen.ts';

/** Neighbours of the flat buffer that the model reads in fp32. */
interface Stretch extends Shard {
  /** Elements into the window. */
  readonly place: number;
}

/** What of the flat buffer the model reads in fp32, back to back. */
export interface WindowPlan {
  readonly stretches: readonly Stretch[];
  /** Elements. */
  readonly size: number;
}

/** Initial values that travel at a time. */
const stagedElements = 2 ** 20;

/** @param takes16Bits the parameters that the model reads as they are stored */
export function planWindow(layout: FlatLayout, takes16Bits: ReadonlySet<string>): WindowPlan {
  const stretches: { offset: number; count: number; place: number }[] = [];
  let place = 0;
  let open = false;
  // Slots begin at aligned offsets: so do their places.
  layout.slots.forEach((slot, index) => {
    const end = layout.slots[index + 1]?.offset ?? layout.total;
    const last = stretches.at(-1);
    const wide = !takes16Bits.has(slot.name);
    if (wide && open) last!.count = end - last!.offset;
    if (wide && !open) stretches.push({ offset: slot.offset, count: end - slot.offset, place });
    if (wide) place += end - slot.offset;
    open = wide;
  });
  return { stretches, size: place };
}

/**
 * fp32 master weights of this rank's shard; 16-bit parameters, which travel and which the model reads; and, for
 * what it can read in fp32 only, a window of them widened. Rounding happens once, in the optimizer.
 */
export class SixteenBitWeights implements MemoryWeights, ParameterOwner {
  readonly gathers = false;
  readonly master: Region;
  readonly copy16: Region;
  readonly stored: readonly HeldPart[];
  readonly #options: WeightsOptions;
  readonly #takes16Bits: ReadonlySet<string>;
  /** All parameters in 16 bits. */
  readonly #narrow: Region;
  readonly #window: Region;
  readonly #stretches: readonly Stretch[];
  /** Initial values that wait for `share`. */
  readonly #written: {
    slot: Slot;
    read: (start: number, count: number) => Float32Array;
  }[] = [];

  constructor(options: WeightsOptions, storage: Exclude<StorageType, 'float32'>) {
    const { engine, layout, worldSize, updated } = options;
    this.#options = options;
    const buffer = engine.allocate(updated.count * 4, {
      category: 'master',
      name: 'master weights',
    });
    this.master = { buffer, byteOffset: 0, count: updated.count, dtype: 'float32' };
    this.stored = [inMemory(buffer, updated)];
    this.#narrow = {
      buffer: engine.allocate(layout.total * 2, {
        category: 'parameters',
        shared: worldSize > 1,
        name: `${storage} parameters`,
      }),
      byteOffset: 0,
      count: layout.total,
      dtype: storage,
    };
    this.copy16 = { ...this.#narrow, byteOffset: updated.offset * 2, count: updated.count };
    this.#takes16Bits = options.takes16Bits;
    const { stretches, size } = planWindow(layout, this.#takes16Bits);
    this.#stretches = stretches;
    this.#window = {
      buffer: engine.allocate(Math.max(size * 4, 64), {
        category: 'window',
        shared: worldSize > 1,
        name: 'widened parameters',
      }),
      byteOffset: 0,
      count: size,
      dtype: 'float32',
    };
  }

  location(parameter: string): Location {
    const { buffer, byteOffset } = this.#read(this.#slotOf(parameter));
    return { buffer, byteOffset };
  }

  ready(): Work[] {
    return [];
  }

  write(parameter: string, read: (start: number, count: number) => Float32Array): void {
    const slot = this.#slotOf(parameter);
    if (!this.#takes16Bits.has(parameter)) {
      this.read(parameter).set(read(0, slot.count));
      return;
    }
    // Rank 0's values count, and of what others own it has no place to keep them: `share` asks it for them.
    if (this.#isPartitioned) this.#written.push({ slot, read });
    else this.#writeMaster(slot, read(0, slot.count));
  }

  share(): Work | null {
    const { engine, worldSize } = this.#options;
    if (worldSize === 1) return null;
    if (this.#isPartitioned) this.#shareWritten();
    const shared = engine.broadcast(this.#window, 0);
    return this.#isPartitioned ? shared : engine.broadcast(this.master, 0, [shared]);
  }

  /** Rank 0's values of what is read in 16 bits go to the owners of its master weights, some at a time. */
  #shareWritten(): void {
    const { engine, rank } = this.#options;
    const written = this.#written.splice(0);
    const largest = Math.max(0, ...written.map(({ slot }) => slot.count));
    const size = Math.min(largest, stagedElements);
    if (size === 0) return;
    const buffer = engine.allocate(Math.max(size * 4, 64), {
      category: 'window',
      name: 'initial values',
    });
    try {
      for (const { slot, read } of written) {
        for (let start = 0; start < slot.count; start += size) {
          const count = Math.min(size, slot.count - start);
          const values = new Float32Array(buffer.view(), 0, count);
          if (rank === 0) values.set(read(start, count));
          const region = { buffer, byteOffset: 0, count, dtype: 'float32' } as const;
          engine.waitSync(engine.broadcast(region, 0));
          this.#writeMaster({ offset: slot.offset + start, count }, values);
        }
      }
    } finally {
      buffer.dispose();
    }
  }

  /** Keeps what this rank owns of these elements of the flat buffer. */
  #writeMaster(elements: Shard, values: Float32Array): void {
    for (const { range, place } of placesOf(this.stored, elements)) {
      const start = range.offset - elements.offset;
      writePlace(place, values.subarray(start, start + range.count));
    }
  }

  get #isPartitioned(): boolean {
    return this.#options.gatherSize !== null && this.#options.worldSize > 1;
  }

  read(parameter: string): Float32Array {
    const region = this.#read(this.#slotOf(parameter));
    const { buffer, byteOffset, count, dtype } = region;
    return dtype === 'float32'
      ? new Float32Array(buffer.view(), byteOffset, count)
      : floatsOf(this.#options.engine, region);
  }

  publish(updated: Work): Work {
    const { engine, layout, worldSize, gatherSize } = this.#options;
    const gathered =
      gatherSize === null || worldSize === 1
        ? updated
        : gatherShards(engine, layout, this.#narrow, gatherSize, updated);
    return this.#widen(gathered);
  }

  adopt(): Work {
    const { engine, updated } = this.#options;
    let last: Work | undefined;
    for (const stretch of this.#stretches) {
      const own = intersect(stretch, updated);
      if (own.count > 0) {
        const byteOffset = (own.offset - updated.offset) * 4;
        engine.copy(this.#inWindow(stretch, own), {
          ...this.master,
          byteOffset,
          count: own.count,
        });
      }
      last = engine.copy(this.#inWindow(stretch, stretch), this.#in16Bits(stretch));
    }
    // Where all of it is in the window, it is the same on every rank.
    return this.#takes16Bits.size === 0 && last !== undefined ? this.#widen(last) : this.restore();
  }

  restore(): Work {
    return this.publish(this.#options.engine.copy(this.master, this.copy16));
  }

  #widen(after: Work): Work {
    const { engine } = this.#options;
    return this.#stretches.reduce(
      (last, stretch) =>
        engine.copy(this.#in16Bits(stretch), this.#inWindow(stretch, stretch), [last]),
      after,
    );
  }

  #slotOf(parameter: string): Slot {
    return this.#options.layout.byName.get(parameter)!;
  }

  /** Where the model reads a parameter. */
  #read(slot: Slot): Region {
    if (this.#takes16Bits.has(slot.name)) return this.#in16Bits(slot);
    const stretch = this.#stretches.find((one) => intersect(slot, one).count > 0);
    return stretch ? this.#inWindow(stretch, slot) : { ...this.#window, count: 0 };
  }

  #in16Bits({ offset, count }: Shard): Region {
    return { ...this.#narrow, byteOffset: offset * 2, count };
  }

  #inWindow(stretch: Stretch, { offset, count }: Shard): Region {
    const byteOffset = (stretch.place + offset - stretch.offset) * 4;
    return { ...this.#window, byteOffset, count };
  }
}

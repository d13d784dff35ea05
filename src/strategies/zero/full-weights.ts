import type { WeightOwner } from '../../hooks/index.ts';
import { type FlatLayout, joined, type Shard, type Slot, tensorOf } from '../../layout.ts';
import type { Region } from '../../native/contract.ts';
import { bucketShards } from '../buckets.ts';
import { type HeldPart, placesOf, readPlace, writePlace } from '../held.ts';
import type { StrategyContext } from '../plugin.ts';
import type { Weights } from '../precision/weights.ts';

/** The fp32 values of one parameter, whole, wherever its shards are. For looking, not for a step. */
export class FullWeights implements WeightOwner {
  readonly #context: StrategyContext;
  readonly #weights: Weights;
  readonly #frozen: () => readonly HeldPart[];

  /** @param frozen what this rank has of the parameters that training does not change */
  constructor(context: StrategyContext, weights: Weights, frozen: () => readonly HeldPart[]) {
    this.#context = context;
    this.#weights = weights;
    this.#frozen = frozen;
  }

  async read(parameter: string): Promise<Float32Array> {
    const { engine } = this.#context;
    const { layout, stored } = await this.#homeOf(parameter);
    const slots = layout.tensors.get(parameter)!;
    const parts: Float32Array[] = [];
    for (const slot of slots) {
      const values = await this.#travelling(slot, (window, region) => {
        for (const { range, place } of placesOf(stored, slot)) {
          readPlace(place, part(window, range, slot));
        }
        return holdsAll(stored, layout)
          ? null
          : engine.allGather(region, bucketShards(slot, layout));
      });
      parts.push(values);
    }
    return slots.length === 1 ? parts[0]! : joined(slots, (slot) => parts[slots.indexOf(slot)]!);
  }

  async write(parameter: string, given: Float32Array, from: number): Promise<void> {
    const { engine } = this.#context;
    const { layout, stored } = await this.#homeOf(parameter);
    for (const slot of layout.tensors.get(parameter)!) {
      const { start } = tensorOf(slot);
      const agreed = await this.#travelling(slot, (values, region) => {
        values.set(given.subarray(start, start + slot.count));
        return engine.broadcast(region, from);
      });
      for (const { range, place } of placesOf(stored, slot)) {
        writePlace(place, part(agreed, range, slot));
      }
    }
    const restored = this.#weights.restore();
    if (restored !== null) await engine.wait(restored);
  }

  async #homeOf(parameter: string): Promise<{ layout: FlatLayout; stored: readonly HeldPart[] }> {
    const { engine, layout, frozen } = this.#context;
    this.#weights.settle?.();
    await engine.idle();
    return layout.tensors.has(parameter)
      ? { layout, stored: this.#weights.stored }
      : { layout: frozen!.layout, stored: this.#frozen() };
  }

  /** Fills memory of the tensor's size, lets it travel, and returns what arrived. */
  async #travelling(
    { count }: Slot,
    send: (values: Float32Array, region: Region) => number | null,
  ): Promise<Float32Array> {
    const { engine } = this.#context;
    const buffer = engine.allocate(Math.max(count * 4, 64), {
      category: 'window',
      name: 'one parameter',
    });
    try {
      const values = new Float32Array(buffer.view(), 0, count);
      const work = send(values, { buffer, byteOffset: 0, count, dtype: 'float32' });
      if (work !== null) await engine.wait(work);
      return values.slice();
    } finally {
      buffer.dispose();
    }
  }
}

function holdsAll(stored: readonly HeldPart[], { total }: FlatLayout): boolean {
  return stored.reduce((sum, { range }) => sum + range.count, 0) === total;
}

/** Elements `range` of the flat buffer in the values of a slot. */
function part(values: Float32Array, range: Shard, slot: Slot): Float32Array {
  const start = range.offset - slot.offset;
  return values.subarray(start, start + range.count);
}

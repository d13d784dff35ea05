import type { WeightOwner } from '../../hooks/index.ts';
import { type FlatLayout, joined, type Shard, type Slot, tensorOf } from '../../layout.ts';
import type { Peers } from '../agree.ts';
import { bucketShards } from '../buckets.ts';
import { placesOf, readPlace, writePlace } from '../held.ts';
import type { Weights } from '../precision/weights.ts';

/** The fp32 weights of one parameter, whole, wherever its shards are. For looking, not for a step. */
export class FullWeights implements WeightOwner {
  readonly #peers: Peers;
  readonly #layout: FlatLayout;
  readonly #weights: Weights;

  constructor(peers: Peers, layout: FlatLayout, weights: Weights) {
    this.#peers = peers;
    this.#layout = layout;
    this.#weights = weights;
  }

  async read(parameter: string): Promise<Float32Array> {
    const { engine } = this.#peers;
    await engine.idle();
    const slots = this.#layout.tensors.get(parameter)!;
    const parts: Float32Array[] = [];
    for (const slot of slots) {
      const values = await this.#travelling(slot, (window, region) => {
        for (const { range, place } of placesOf(this.#weights.stored, slot)) {
          readPlace(place, part(window, range, slot));
        }
        if (this.#holdsAll) return null;
        return engine.allGather(region, bucketShards(slot, this.#layout));
      });
      parts.push(values);
    }
    return slots.length === 1 ? parts[0]! : joined(slots, (slot) => parts[slots.indexOf(slot)]!);
  }

  async write(parameter: string, given: Float32Array, from: number): Promise<void> {
    const { engine } = this.#peers;
    await engine.idle();
    for (const slot of this.#layout.tensors.get(parameter)!) {
      const { start } = tensorOf(slot);
      const agreed = await this.#travelling(slot, (values, region) => {
        values.set(given.subarray(start, start + slot.count));
        return engine.broadcast(region, from);
      });
      for (const { range, place } of placesOf(this.#weights.stored, slot)) {
        writePlace(place, part(agreed, range, slot));
      }
    }
    const restored = this.#weights.restore();
    if (restored !== null) await engine.wait(restored);
  }

  /** Fills memory of the tensor's size, lets it travel, and returns what arrived. */
  async #travelling(
    { count }: Slot,
    send: (
      values: Float32Array,
      region: Parameters<Peers['engine']['allGather']>[0],
    ) => number | null,
  ): Promise<Float32Array> {
    const { engine } = this.#peers;
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

  get #holdsAll(): boolean {
    const held = this.#weights.stored.reduce((sum, { range }) => sum + range.count, 0);
    return held === this.#layout.total;
  }
}

/** Elements `range` of the flat buffer in the values of a slot. */
function part(values: Float32Array, range: Shard, slot: Slot): Float32Array {
  const start = range.offset - slot.offset;
  return values.subarray(start, start + range.count);
}

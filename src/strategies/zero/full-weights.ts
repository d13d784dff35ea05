import type { WeightOwner } from '../../hooks/index.ts';
import { type FlatLayout, intersect, type Slot } from '../../layout.ts';
import type { Peers } from '../agree.ts';
import { bucketShards } from '../buckets.ts';
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
    const slot = this.#layout.byName.get(parameter)!;
    return this.#travelling(slot, (values, region) => {
      this.#copy(slot, (own, at) => values.set(own, at));
      if (this.#weights.stored.range.count === this.#layout.total) return null;
      return engine.allGather(region, bucketShards(slot, this.#layout));
    });
  }

  async write(parameter: string, given: Float32Array, from: number): Promise<void> {
    const { engine } = this.#peers;
    await engine.idle();
    const slot = this.#layout.byName.get(parameter)!;
    const agreed = await this.#travelling(slot, (values, region) => {
      values.set(given);
      return engine.broadcast(region, from);
    });
    this.#copy(slot, (own, at) => own.set(agreed.subarray(at, at + own.length)));
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

  /** Visits the part of the tensor that this rank stores. */
  #copy(slot: Slot, visit: (own: Float32Array, at: number) => void): void {
    const { buffer, range } = this.#weights.stored;
    const part = intersect(slot, range);
    if (part.count === 0) return;
    const own = new Float32Array(buffer.view(), (part.offset - range.offset) * 4, part.count);
    visit(own, part.offset - slot.offset);
  }
}

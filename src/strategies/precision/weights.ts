import type { FlatLayout, Shard } from '../../layout.ts';
import type { NativeBuffer, NativeEngine, Region, Work } from '../../native/index.ts';
import { gatherShards } from '../zero/gather.ts';
import { inMemory, type HeldPart } from '../held.ts';
import type { StorageType } from './precision.ts';

/** The weights that the optimizer updates, and how they reach the memory that the model reads. */
export interface Weights {
  /** fp32 weights that this rank has, for checkpoints. */
  readonly stored: readonly HeldPart[];
  /** After the update: every rank's model sees every shard. */
  publish(updated: Work): Work;
  /** The host has written the model's memory, the same on all ranks. */
  adopt(): Work | null;
  /** A checkpoint was read into `stored`. */
  restore(): Work | null;
}

/** Weights that this rank has in memory. */
export interface MemoryWeights extends Weights {
  /** fp32, of the elements that the optimizer updates. */
  readonly master: Region;
  /** Where the optimizer writes them in 16 bits, too. */
  readonly copy16?: Region;
}

export interface WeightsOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  worldSize: number;
  /** fp32, whole: what the model reads. */
  parameters: NativeBuffer;
  /** Elements that this rank's optimizer updates. */
  updated: Shard;
  /** Elements of one all-gather; null: every rank updates everything. */
  gatherSize: number | null;
  storage: StorageType;
}

export function createWeights(options: WeightsOptions): MemoryWeights {
  return options.storage === 'float32'
    ? fullWeights(options)
    : new SixteenBitWeights(options, options.storage);
}

/** fp32: the optimizer works in the model's own memory. */
function fullWeights({
  engine,
  layout,
  parameters,
  updated,
  gatherSize,
  worldSize,
}: WeightsOptions): MemoryWeights {
  const region = (range: Shard): Region => ({
    buffer: parameters,
    byteOffset: range.offset * 4,
    count: range.count,
    dtype: 'float32',
  });
  const whole = { offset: 0, count: layout.total };
  return {
    master: region(updated),
    stored: [inMemory(parameters, whole)],
    publish: (work) =>
      gatherSize === null || worldSize === 1
        ? work
        : gatherShards(engine, layout, region(whole), gatherSize, work),
    adopt: () => null,
    restore: () => null,
  };
}

/**
 * fp32 master weights of this rank's shard; 16-bit parameters, which travel; and the fp32 window that
 * ONNX Runtime reads, always the 16-bit parameters widened. Rounding happens once, in the optimizer.
 */
class SixteenBitWeights implements MemoryWeights {
  readonly master: Region;
  readonly copy16: Region;
  readonly stored: readonly HeldPart[];
  readonly #options: WeightsOptions;
  /** All parameters in 16 bits, and in the model's memory. */
  readonly #narrow: Region;
  readonly #window: Region;

  constructor(options: WeightsOptions, storage: 'bfloat16' | 'float16') {
    const { engine, layout, worldSize, parameters, updated } = options;
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
    this.#window = { buffer: parameters, byteOffset: 0, count: layout.total, dtype: 'float32' };
  }

  publish(updated: Work): Work {
    const { engine, layout, worldSize, gatherSize } = this.#options;
    const gathered =
      gatherSize === null || worldSize === 1
        ? updated
        : gatherShards(engine, layout, this.#narrow, gatherSize, updated);
    return engine.copy(this.#narrow, this.#window, [gathered]);
  }

  adopt(): Work {
    const { engine, updated } = this.#options;
    const own = { ...this.#window, byteOffset: updated.offset * 4, count: updated.count };
    engine.copy(own, this.master);
    engine.copy(this.#window, this.#narrow);
    return engine.copy(this.#narrow, this.#window);
  }

  restore(): Work {
    return this.publish(this.#options.engine.copy(this.master, this.copy16));
  }
}

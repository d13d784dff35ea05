import type { DeepSpeedConfig } from '../../config/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import { type FlatLayout, intersect, type Shard } from '../../layout.ts';
import type { GroupId, NativeBuffer, NativeEngine, Region, Work } from '../../native/contract.ts';
import { bucketShards } from '../buckets.ts';
import { elementBytes, stretchOf } from '../precision/wire.ts';
import type { StorageType } from '../precision/precision.ts';

/** ZeRO++ (Wang et al., arXiv 2306.10209): what stage 3 sends less of, each on its own. */
export interface PlusPlus {
  /** Gathers in blocks of int8 (section 3.1). */
  readonly quantisedWeights: boolean;
  /** The same of what training does not change. */
  readonly quantisedFrozen: boolean;
  /** Reductions in blocks of int4 (section 3.3). */
  readonly quantisedGradients: boolean;
  /** Ranks that keep a second shard of what forward gathered (section 3.2); 1: none do. */
  readonly secondaryRanks: number;
}

/** Elements that share a scale: 4 bytes on 256, or on 128 of them in 4 bits. */
const block = 256;

/** @throws CONFIG_INVALID where the secondary shard does not fit the ranks */
export function plusPlusOf(config: DeepSpeedConfig, worldSize: number): PlusPlus {
  const zero = config.zero_optimization;
  const key = 'zero_optimization.zero_hpz_partition_size';
  const secondaryRanks = zero.zero_hpz_partition_size;
  if (worldSize > 1 && worldSize % secondaryRanks !== 0) {
    throw new DeepSpeedError(
      'CONFIG_INVALID',
      `${key} is ${secondaryRanks}: ${worldSize} ranks are not a multiple of it`,
      { fix: 'Give it the ranks of one machine.', data: { key, worldSize } },
    );
  }
  return {
    quantisedWeights: zero.zero_quantized_weights,
    quantisedFrozen: zero.zero_quantized_nontrainable_weights,
    quantisedGradients: zero.zero_quantized_gradients,
    secondaryRanks: worldSize > 1 ? secondaryRanks : 1,
  };
}

/** Elements of the largest part that a rank has of any of the stretches. */
function largestPart(stretches: readonly Shard[], layout: FlatLayout): number {
  return stretches
    .flatMap((stretch) => bucketShards(stretch, layout))
    .reduce((most, { count }) => Math.max(most, count), 0);
}

/** `engine.allGather` in blocks of int8, for stretches of the flat buffer. */
export function quantisedGather(
  engine: NativeEngine,
  layout: FlatLayout,
  stretches: readonly Shard[],
): NativeEngine['allGather'] {
  const quantiser = engine.createQuantiser({
    bits: 8,
    block,
    largest: largestPart(stretches, layout),
  });
  return (region, shards, after) => engine.quantisedAllGather(quantiser, region, shards, after);
}

/** `engine.reduceScatter` in blocks of int4, for buckets of the flat buffer. */
export function quantisedScatter(
  engine: NativeEngine,
  layout: FlatLayout,
  buckets: readonly Shard[],
): NativeEngine['reduceScatter'] {
  const quantiser = engine.createQuantiser({
    bits: 4,
    block,
    largest: largestPart(buckets, layout),
  });
  return (bucket, shards, target, options, after) =>
    engine.quantisedReduceScatter(quantiser, bucket, shards, target, options, after);
}

/** Elements of a secondary shard. */
export function secondaryCount(total: number, ranks: number): number {
  return ranks > 1 ? total / ranks : 0;
}

/**
 * A second copy of all parameters, in equal slices among neighbouring ranks: those of one machine. What forward has
 * gathered from all ranks is kept there, so that backward gathers from the neighbours what forward read.
 */
export class SecondaryShard {
  readonly #engine: NativeEngine;
  readonly #shards: readonly Shard[];
  readonly #own: Shard;
  readonly #buffer: NativeBuffer;
  readonly #type: StorageType;
  readonly #group: GroupId;

  /** @param ranks of a group; every rank must make it */
  constructor(
    engine: NativeEngine,
    layout: FlatLayout,
    { rank, ranks, type }: { rank: number; ranks: number; type: StorageType },
  ) {
    this.#engine = engine;
    this.#type = type;
    const count = secondaryCount(layout.total, ranks);
    this.#shards = Array.from({ length: ranks }, (_, member) => ({
      offset: member * count,
      count,
    }));
    this.#own = this.#shards[rank % ranks]!;
    this.#buffer = engine.allocate(count * elementBytes(type), {
      category: 'parameters',
      name: 'secondary parameter shard',
    });
    this.#group = engine.createGroup(Math.floor(rank / ranks));
  }

  /**
   * Keeps this rank's slice of a stretch that has been gathered.
   *
   * @param window the stretch, whole
   */
  keep(stretch: Shard, window: Region, after: Work[]): void {
    const own = intersect(stretch, this.#own);
    if (own.count === 0) return;
    this.#engine.copy(
      stretchOf(window, { offset: own.offset - stretch.offset, count: own.count }),
      this.#slice(own),
      after,
    );
  }

  /** Gathers into `window` what was kept of a stretch. */
  gather(stretch: Shard, window: Region, after: Work[]): Work {
    const own = intersect(stretch, this.#own);
    const ready =
      own.count === 0
        ? after
        : [
            this.#engine.copy(
              this.#slice(own),
              stretchOf(window, { offset: own.offset - stretch.offset, count: own.count }),
              after,
            ),
          ];
    const shards = this.#shards.map((slice) => {
      const { offset, count } = intersect(stretch, slice);
      return { offset: count > 0 ? offset - stretch.offset : 0, count };
    });
    return this.#engine.allGatherWithin(this.#group, window, shards, ready);
  }

  #slice({ offset, count }: Shard): Region {
    const byteOffset = (offset - this.#own.offset) * elementBytes(this.#type);
    return { buffer: this.#buffer, byteOffset, count, dtype: this.#type };
  }
}

import type { FlatLayout } from '../../layout.ts';
import type { Region, Work } from '../../native/contract.ts';
import type { MemoryCategory } from '../../native/index.ts';
import { heldSplit } from '../offload/offload.ts';
import { swapUnit } from '../offload/settings.ts';
import type { Split } from '../offload/walk.ts';
import type { StrategyContext } from '../plugin.ts';
import type { StorageType } from '../precision/precision.ts';
import type { Weights } from '../precision/weights.ts';
import { elementBytes } from '../precision/wire.ts';
import { planGathers } from './gather-plan.ts';
import { GatheredParameters } from './gathered-parameters.ts';
import type { ZeroOptions } from './options.ts';
import { quantisedGather, SecondaryShard } from './plus-plus.ts';

/** A rank's shard of the parameters: fp32, and with 16-bit storage rounded, too, which then travels. */
export interface ShardWeights {
  readonly master: Split;
  readonly copy16?: Split;
}

/** Memory for all of the shard. */
export function shardInMemory(
  context: StrategyContext,
  { inPlace = false }: Pick<ZeroOptions, 'inPlace'>,
): { master: Region; copy16?: Region } {
  const { layout, precision } = context;
  const { storage } = precision;
  const parameters = { layout, category: 'parameters', inPlace } as const;
  if (storage === 'float32') {
    return {
      master: allocateShard(context, { ...parameters, dtype: 'float32', name: 'parameter shard' }),
    };
  }
  return {
    master: allocateShard(context, {
      layout,
      dtype: 'float32',
      category: 'master',
      name: 'parameter shard',
    }),
    copy16: allocateShard(context, {
      ...parameters,
      dtype: storage,
      name: `${storage} parameter shard`,
    }),
  };
}

/** @param inPlace peers read it */
export function allocateShard(
  { engine, communicator }: Pick<StrategyContext, 'engine' | 'communicator'>,
  shard: {
    layout: FlatLayout;
    dtype: StorageType;
    category: MemoryCategory;
    name: string;
    inPlace?: boolean;
  },
): Region {
  const { layout, dtype, inPlace = false, ...options } = shard;
  const bytes = elementBytes(dtype);
  const { offset, count } = layout.shards[communicator.rank]!;
  if (!inPlace) {
    return { buffer: engine.allocate(count * bytes, options), byteOffset: 0, count, dtype };
  }
  const buffer = engine.allocateJoint(
    layout.shards.map((one) => one.count * bytes),
    options,
  );
  return { buffer, byteOffset: offset * bytes, count, dtype };
}

/**
 * Stage 3: of parameters, too, a rank holds its shard alone.
 *
 * @param shard and `frozen`, that of what training does not change (null where it is whole): joint memory where they are
 *   to be read in place
 * @param narrow enqueues the rounding of the whole shard; null where nothing is rounded
 */
export function shardedWeights(
  context: StrategyContext,
  {
    gather,
    inPlace = false,
    plusPlus,
    skippable,
  }: Pick<ZeroOptions, 'gather' | 'inPlace' | 'plusPlus' | 'skippable'>,
  shard: ShardWeights,
  frozen: Split | null,
  narrow: () => Work | null,
): { weights: Weights; parameters: GatheredParameters } {
  const { host, engine, layout, communicator, precision } = context;
  const { rank, size } = communicator;
  const { master, copy16 } = shard;
  const segmentCount = host.segments.length;
  const ofFrozen = frozen && { split: frozen, layout: context.frozen!.layout };
  const fromDisk = (copy16 ?? master).tail ?? frozen?.tail;
  const plan = planGathers({
    parameters: host.parameters,
    layout,
    ...(ofFrozen && { frozen: { parameters: host.frozen!, layout: ofFrozen.layout } }),
    segmentCount,
    skippable,
    limits: gather!,
    narrow: copy16 !== undefined,
    inPlace,
    ...(fromDisk && { alignment: swapUnit }),
  });
  const {
    quantisedWeights = false,
    quantisedFrozen = false,
    secondaryRanks: ranks = 1,
  } = (size > 1 && plusPlus) || {};
  const secondary = (of: FlatLayout, type: StorageType) =>
    ranks > 1 && { secondary: new SecondaryShard(engine, of, { rank, ranks, type }) };
  const quantised = (of: FlatLayout, isFrozen: boolean) => ({
    allGather: quantisedGather(
      engine,
      of,
      plan.gatherings.filter(({ frozen }) => frozen === isFrozen),
    ),
  });
  const parameters = new GatheredParameters({
    engine,
    rank,
    segmentCount,
    plan,
    trained: {
      layout,
      master,
      sent: copy16 ?? master,
      inPlace,
      ...(quantisedWeights && quantised(layout, false)),
      ...secondary(layout, precision.storage),
    },
    ...(ofFrozen && {
      frozen: {
        layout: ofFrozen.layout,
        master: ofFrozen.split,
        sent: ofFrozen.split,
        inPlace,
        ...(quantisedFrozen && quantised(ofFrozen.layout, true)),
        ...secondary(ofFrozen.layout, 'float32'),
      },
    }),
  });
  const spread = () => {
    const narrowed = narrow();
    return parameters.refresh(narrowed === null ? [] : [narrowed], { frozen: true });
  };
  return {
    parameters,
    weights: {
      get stored() {
        return heldSplit(master, layout.shards[rank]!);
      },
      publish: (updated) => parameters.refresh([updated], { frozen: false }) ?? updated,
      adopt: spread,
      restore: spread,
    },
  };
}

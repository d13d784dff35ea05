import type { FlatLayout } from '../../layout.ts';
import type { Region, Work } from '../../native/contract.ts';
import { heldSplit } from '../offload/offload.ts';
import { swapUnit } from '../offload/settings.ts';
import type { Split } from '../offload/walk.ts';
import type { StrategyContext } from '../plugin.ts';
import type { StorageType } from '../precision/precision.ts';
import type { Weights } from '../precision/weights.ts';
import { type GatherLimits, planGathers } from './gather-plan.ts';
import { GatheredParameters } from './gathered-parameters.ts';
import { type PlusPlus, quantisedGather, SecondaryShard } from './plus-plus.ts';

/** A rank's shard of the parameters: fp32, and with 16-bit storage rounded, too, which then travels. */
export interface ShardWeights {
  readonly master: Split;
  readonly copy16?: Split;
}

/** Memory for all of the shard. */
export function shardInMemory(context: StrategyContext): { master: Region; copy16?: Region } {
  const { engine, layout, communicator, precision } = context;
  const { count } = layout.shards[communicator.rank]!;
  const { storage } = precision;
  const narrow = storage !== 'float32';
  const master = {
    buffer: engine.allocate(count * 4, {
      category: narrow ? 'master' : 'parameters',
      name: 'parameter shard',
    }),
    byteOffset: 0,
    count,
    dtype: 'float32',
  } as const;
  if (!narrow) return { master };
  const buffer = engine.allocate(count * 2, {
    category: 'parameters',
    name: `${storage} parameter shard`,
  });
  return { master, copy16: { buffer, byteOffset: 0, count, dtype: storage } };
}

/**
 * Stage 3: of parameters, too, a rank holds its shard alone.
 *
 * @param frozen its shard of what training does not change; null where that is whole
 * @param narrow enqueues the rounding of the whole shard; null where nothing is rounded
 */
export function shardedWeights(
  context: StrategyContext,
  limits: GatherLimits,
  shard: ShardWeights,
  frozen: Split | null,
  narrow: () => Work | null,
  plusPlus?: PlusPlus,
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
    limits,
    narrow: copy16 !== undefined,
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
      ...(quantisedWeights && quantised(layout, false)),
      ...secondary(layout, precision.storage),
    },
    ...(ofFrozen && {
      frozen: {
        layout: ofFrozen.layout,
        master: ofFrozen.split,
        sent: ofFrozen.split,
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

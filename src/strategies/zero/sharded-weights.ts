import type { Region, Work } from '../../native/contract.ts';
import { heldSplit } from '../offload/offload.ts';
import { swapUnit } from '../offload/settings.ts';
import type { Split } from '../offload/walk.ts';
import type { StrategyContext } from '../plugin.ts';
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
 * @param narrow enqueues the rounding of the whole shard; null where nothing is rounded
 */
export function shardedWeights(
  context: StrategyContext,
  limits: GatherLimits,
  shard: ShardWeights,
  narrow: () => Work | null,
  plusPlus?: PlusPlus,
): { weights: Weights; parameters: GatheredParameters } {
  const { host, engine, layout, communicator } = context;
  const { rank, size } = communicator;
  const { master, copy16 } = shard;
  const segmentCount = host.segments.length;
  const plan = planGathers({
    parameters: host.parameters,
    layout,
    segmentCount,
    limits,
    narrow: copy16 !== undefined,
    ...((copy16 ?? master).tail && { alignment: swapUnit }),
  });
  const { quantisedWeights = false, secondaryRanks = 1 } = (size > 1 && plusPlus) || {};
  const type = context.precision.storage;
  const parameters = new GatheredParameters({
    engine,
    layout,
    rank,
    segmentCount,
    plan,
    master,
    sent: copy16 ?? master,
    ...(quantisedWeights && { allGather: quantisedGather(engine, layout, plan.gatherings) }),
    ...(secondaryRanks > 1 && {
      secondary: new SecondaryShard(engine, layout, { rank, ranks: secondaryRanks, type }),
    }),
  });
  const spread = () => {
    const narrowed = narrow();
    return parameters.refresh(narrowed === null ? [] : [narrowed]);
  };
  return {
    parameters,
    weights: {
      get stored() {
        return heldSplit(master, layout.shards[rank]!);
      },
      publish: (updated) => parameters.refresh([updated]) ?? updated,
      adopt: spread,
      restore: spread,
    },
  };
}

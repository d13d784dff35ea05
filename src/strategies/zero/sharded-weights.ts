import type { StrategyContext } from '../plugin.ts';
import type { Weights } from '../precision/weights.ts';
import { type GatherLimits, planGathers } from './gather-plan.ts';
import { GatheredParameters } from './gathered-parameters.ts';

/**
 * Stage 3: of parameters, too, a rank holds its shard alone. In 16 bits that is the fp32 weights of the
 * optimizer and the rounded ones, which travel.
 */
export function shardedWeights(
  context: StrategyContext,
  limits: GatherLimits,
): { weights: Weights; parameters: GatheredParameters } {
  const { host, engine, layout, communicator, precision } = context;
  const { rank } = communicator;
  const shard = layout.shards[rank]!;
  const { count } = shard;
  const narrow = precision.storage !== 'float32';
  const master = {
    buffer: engine.allocate(count * 4, {
      category: narrow ? 'master' : 'parameters',
      name: 'parameter shard',
    }),
    byteOffset: 0,
    count,
    dtype: 'float32',
  } as const;
  const copy16 = narrow
    ? {
        buffer: engine.allocate(count * 2, {
          category: 'parameters',
          name: `${precision.storage} parameter shard`,
        }),
        byteOffset: 0,
        count,
        dtype: precision.storage,
      }
    : null;
  const segmentCount = host.segments.length;
  const parameters = new GatheredParameters({
    engine,
    layout,
    rank,
    segmentCount,
    plan: planGathers({ parameters: host.parameters, layout, segmentCount, limits, narrow }),
    master,
    sent: copy16 ?? master,
  });
  const spread = () => parameters.refresh(copy16 ? [engine.copy(master, copy16)] : []);
  return {
    parameters,
    weights: {
      master,
      ...(copy16 && { copy16 }),
      stored: { buffer: master.buffer, range: shard },
      publish: (updated) => parameters.refresh([updated]) ?? updated,
      adopt: spread,
      restore: spread,
    },
  };
}

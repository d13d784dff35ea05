import { heldSplit, type Offload } from '../offload/offload.ts';
import type { Split } from '../offload/walk.ts';
import { type HeldPart, inMemory } from '../held.ts';
import type { StrategyContext } from '../plugin.ts';
import { gathersFrozen } from './estimate.ts';
import type { ZeroOptions } from './options.ts';
import { allocateShard } from './sharded-weights.ts';

/**
 * This rank's shard of what training does not change, fp32 at every storage type: it is rounded nowhere else either.
 * Null where every rank has all of it, and where training changes everything.
 */
export function shardOfFrozen(
  context: StrategyContext,
  options: ZeroOptions,
  offload: Offload | null,
): Split | null {
  const { frozen, communicator } = context;
  if (!frozen || !gathersFrozen(options, communicator.size)) return null;
  const { layout } = frozen;
  if (offload) return offload.frozen(layout.shards[communicator.rank]!.count);
  const { inPlace = false } = options;
  return {
    head: allocateShard(context, {
      layout,
      dtype: 'float32',
      category: 'parameters',
      name: 'frozen parameter shard',
      inPlace,
    }),
  };
}

/** Where this rank has what training does not change, for checkpoints. */
export function storedFrozen(
  { frozen, communicator }: StrategyContext,
  shard: Split | null,
): HeldPart[] {
  if (!frozen) return [];
  const { layout } = frozen;
  return shard
    ? heldSplit(shard, layout.shards[communicator.rank]!)
    : [inMemory(frozen.buffer, { offset: 0, count: layout.total })];
}

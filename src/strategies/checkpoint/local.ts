import type { StrategyContext } from '../plugin.ts';
import type { LocalState } from '../local-state.ts';
import type { OpenCheckpoint, ShardRead } from './load.ts';

/**
 * What fills the state that each rank keeps for itself, from its own shard. A checkpoint of another world size, or one
 * that was written without it, has none: see `startLocal`.
 */
export function localReads(
  { communicator }: Pick<StrategyContext, 'communicator'>,
  checkpoint: OpenCheckpoint,
  states: readonly LocalState[],
): ShardRead[] {
  return states.flatMap((state) => {
    const read = storedState(communicator, checkpoint, state);
    return read ? [read] : [];
  });
}

/** State that the checkpoint does not have starts as zeros, which rank 0 says, unless it is to be kept. */
export async function startLocal(
  { engine, communicator }: Pick<StrategyContext, 'engine' | 'communicator'>,
  checkpoint: OpenCheckpoint,
  states: readonly LocalState[],
): Promise<void> {
  const { folder, manifest } = checkpoint;
  for (const state of states) {
    const { name, buffer, count, otherwise } = state;
    const isKept = count === 0 || otherwise === 'kept';
    if (isKept || storedState(communicator, checkpoint, state)) continue;
    await engine.wait(engine.fill({ buffer, byteOffset: 0, count, dtype: 'float32' }, 0));
    if (communicator.rank > 0) continue;
    const sameRanks = manifest.worldSize === communicator.size;
    const why = sameRanks ? 'has none' : `was written by ${manifest.worldSize} ranks`;
    process.emitWarning(`the ${name} of compression starts at zero: ${folder} ${why}`, {
      code: 'DEEPSPEED_JS_COMPRESSION_ERROR',
    });
  }
}

function storedState(
  { rank, size }: { rank: number; size: number },
  { manifest }: OpenCheckpoint,
  { name, buffer, count, otherwise }: LocalState,
): ShardRead | null {
  if (count === 0) return null;
  const shard = otherwise === 'rank 0' ? 0 : rank;
  if (otherwise !== 'rank 0' && manifest.worldSize !== size) return null;
  const fileOffset = manifest.shards[shard]?.tensors[name];
  if (fileOffset === undefined) return null;
  return { shard, fileOffset, target: { buffer, byteOffset: 0, bytes: count * 4 } };
}

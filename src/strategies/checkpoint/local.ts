import { join } from 'node:path';
import type { StrategyContext } from '../plugin.ts';
import type { LocalState } from '../local-state.ts';
import type { OpenCheckpoint } from './load.ts';

/**
 * Reads what each rank keeps for itself from its own shard. A checkpoint of another world size, or one
 * that was written without it, has none: it starts as zeros, which rank 0 says.
 */
export async function readLocal(
  { addon, engine, communicator }: StrategyContext,
  { folder, manifest }: OpenCheckpoint,
  states: readonly LocalState[],
): Promise<void> {
  const sameRanks = manifest.worldSize === communicator.size;
  for (const { name, buffer, count, otherwise } of states) {
    if (count === 0) continue;
    const shard = manifest.shards[otherwise === 'rank 0' ? 0 : communicator.rank];
    const matches = sameRanks || otherwise === 'rank 0';
    const fileOffset = matches ? shard?.tensors[name] : undefined;
    if (fileOffset !== undefined) {
      const target = { buffer, byteOffset: 0, bytes: count * 4 };
      await addon.readInto(join(folder, shard!.file), fileOffset, target);
      continue;
    }
    if (otherwise === 'kept') continue;
    await engine.wait(engine.fill({ buffer, byteOffset: 0, count, dtype: 'float32' }, 0));
    if (communicator.rank > 0) continue;
    const why = sameRanks ? 'has none' : `was written by ${manifest.worldSize} ranks`;
    process.emitWarning(`the ${name} of compression starts at zero: ${folder} ${why}`, {
      code: 'DEEPSPEED_JS_COMPRESSION_ERROR',
    });
  }
}

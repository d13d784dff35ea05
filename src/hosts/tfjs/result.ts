import { agree } from '../../strategies/agree.ts';
import type { HostContext } from './context.ts';

/** Rank 0 acts; all get its result, or the error that it met. */
export async function fromRankZeroOrThrow<T>(
  context: HostContext,
  action: () => Promise<T>,
): Promise<T> {
  const results = await agree(context.runtime, async () => (context.rank === 0 ? action() : null));
  return results[0] as T;
}

import { DeepSpeedError } from '../errors.ts';
import type { NativeCommunicator } from '../native/contract.ts';

/** Gathers one JSON value from every rank, in rank order. Blocks until all have called it. */
export function gatherJson<T>(communicator: NativeCommunicator, value: T): T[] {
  const own = new TextEncoder().encode(JSON.stringify(value));
  const lengths = new Int32Array(
    communicator.allGather(new Uint8Array(Int32Array.of(own.length).buffer)).slice().buffer,
  );
  const longest = Math.max(...lengths);
  const padded = new Uint8Array(longest);
  padded.set(own);
  const all = communicator.allGather(padded);
  return Array.from(lengths, (length, rank) =>
    JSON.parse(new TextDecoder().decode(all.subarray(rank * longest, rank * longest + length))),
  ) as T[];
}

/** Rank 0's value on every rank. */
export function fromRankZero<T>(communicator: NativeCommunicator, value: T): T {
  return gatherJson(communicator, communicator.rank === 0 ? value : null)[0] as T;
}

interface Outcome<T> {
  value?: T;
  error?: { code: string; message: string; fix?: string };
}

/**
 * Runs `action` on every rank and returns all results in rank order. When it fails anywhere, every rank
 * throws the first failing rank's error: none is left waiting for one that gave up.
 */
export async function agree<T>(
  communicator: NativeCommunicator,
  action: () => Promise<T>,
): Promise<T[]> {
  let outcome: Outcome<T>;
  let cause: unknown;
  try {
    outcome = { value: await action() };
  } catch (error) {
    cause = error;
    const { message, code, fix } = error as { message: string; code?: string; fix?: string };
    outcome = { error: { code: code ?? 'INTERNAL', message, ...(fix && { fix }) } };
  }
  const outcomes = gatherJson(communicator, outcome);
  const failed = outcomes.findIndex((one) => one.error);
  if (failed < 0) return outcomes.map((one) => one.value as T);
  if (failed === communicator.rank) throw cause;
  const { message, fix } = outcomes[failed]!.error!;
  throw new DeepSpeedError('PEER_FAILED', `rank ${failed}: ${message}`, {
    ...(fix && { fix }),
    data: { rank: failed },
  });
}

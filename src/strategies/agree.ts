import { DeepSpeedError } from '../errors.ts';
import type { NativeCommunicator, NativeEngine } from '../native/contract.ts';

/** This rank's engine and its place among the ranks: a Runtime, or a strategy's context. */
export interface Peers {
  readonly engine: NativeEngine;
  readonly communicator: NativeCommunicator;
}

/**
 * Gathers one JSON value from every rank, in rank order. It runs on the comm queue: the JavaScript
 * thread stays free for signals and progress while peers take their time, and one that never comes
 * ends the wait as it ends any collective of a step.
 */
export async function gatherJson<T>(peers: Peers, value: T): Promise<T[]> {
  const { size, rank } = peers.communicator;
  // Alone as well: what a rank gets back is always a copy that has been through JSON.
  const own = new TextEncoder().encode(JSON.stringify(value));
  if (size === 1) return [parse<T>(own)];
  const sizes = Array.from({ length: size }, () => 4);
  const lengths = await gatherBytes(peers, new Uint8Array(Int32Array.of(own.length).buffer), sizes);
  const byRank = [...new Int32Array(lengths.buffer)];
  const all = await gatherBytes(peers, own, byRank);
  let end = 0;
  return byRank.map((length, from) => {
    const start = end;
    end += alignUp(length, wordBytes);
    return parse<T>(from === rank ? own : all.subarray(start, start + length));
  });
}

const wordBytes = 4;

/** Every rank's bytes, each starting at a multiple of a word. */
async function gatherBytes(
  { engine, communicator }: Peers,
  own: Uint8Array,
  lengths: readonly number[],
): Promise<Uint8Array> {
  let words = 0;
  const shards = lengths.map((length) => {
    const shard = { offset: words, count: alignUp(length, wordBytes) / wordBytes };
    words += shard.count;
    return shard;
  });
  const buffer = engine.allocate(words * wordBytes, { category: 'communication', name: 'json' });
  try {
    new Uint8Array(buffer.view(), shards[communicator.rank]!.offset * wordBytes).set(own);
    // An all-gather copies, so any bytes may travel as floats.
    const region = { buffer, byteOffset: 0, count: words, dtype: 'float32' } as const;
    await engine.wait(engine.allGather(region, shards));
    return new Uint8Array(buffer.view()).slice();
  } finally {
    buffer.dispose();
  }
}

function alignUp(length: number, unit: number): number {
  return Math.ceil(length / unit) * unit;
}

function parse<T>(bytes: Uint8Array): T {
  return JSON.parse(new TextDecoder().decode(bytes)) as T;
}

/** Rank 0's value on every rank. */
export async function fromRankZero<T>(peers: Peers, value: T): Promise<T> {
  const [first] = await gatherJson(peers, peers.communicator.rank === 0 ? value : null);
  return first as T;
}

interface Outcome<T> {
  value?: T;
  error?: { code: string; message: string; fix?: string };
}

/**
 * Runs `action` on every rank and returns all results in rank order. When it fails anywhere, every rank
 * throws the first failing rank's error: none is left waiting for one that gave up.
 */
export async function agree<T>(peers: Peers, action: () => Promise<T>): Promise<T[]> {
  let outcome: Outcome<T>;
  let cause: unknown;
  try {
    outcome = { value: await action() };
  } catch (error) {
    cause = error;
    const { message, code, fix } = error as { message: string; code?: string; fix?: string };
    outcome = { error: { code: code ?? 'INTERNAL', message, ...(fix && { fix }) } };
  }
  const outcomes = await gatherJson(peers, outcome);
  const failed = outcomes.findIndex((one) => one.error);
  if (failed < 0) return outcomes.map((one) => one.value as T);
  if (failed === peers.communicator.rank) throw cause;
  const { message, fix } = outcomes[failed]!.error!;
  throw new DeepSpeedError('PEER_FAILED', `rank ${failed}: ${message}`, {
    ...(fix && { fix }),
    data: { rank: failed },
  });
}

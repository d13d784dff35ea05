import { DeepSpeedError } from '../errors.ts';
import type { NativeCommunicator, NativeEngine, Work } from '../native/contract.ts';

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
  const exchange = new JsonExchange(peers, value);
  for (const work of exchange.works()) await peers.engine.wait(work);
  return exchange.values() as T[];
}

/** As gatherJson, and blocks: for hosts whose trainer is synchronous. */
export function gatherJsonSync<T>(peers: Peers, value: T): T[] {
  const exchange = new JsonExchange(peers, value);
  for (const work of exchange.works()) peers.engine.waitSync(work);
  return exchange.values() as T[];
}

const wordBytes = 4;

/** First the lengths, then the texts, each starting at a multiple of a word. */
class JsonExchange {
  readonly #peers: Peers;
  readonly #own: Uint8Array;
  #texts: Uint8Array[];

  constructor(peers: Peers, value: unknown) {
    this.#peers = peers;
    this.#own = new TextEncoder().encode(JSON.stringify(value));
    this.#texts = [this.#own];
  }

  /** The works to wait for, one after the other; whoever waits decides how. */
  *works(): Generator<Work> {
    const { size } = this.#peers.communicator;
    if (size === 1) return;
    const length = new Uint8Array(Int32Array.of(this.#own.length).buffer);
    const lengths = yield* this.#gather(
      length,
      Array.from({ length: size }, () => wordBytes),
    );
    const bytes = lengths.map((word) => new Int32Array(word.buffer)[0]!);
    this.#texts = yield* this.#gather(this.#own, bytes);
  }

  /** Alone, too, what a rank gets back is a copy that has been through JSON. */
  values(): unknown[] {
    return this.#texts.map((text) => JSON.parse(new TextDecoder().decode(text)));
  }

  /** Every rank's bytes; rank r has `lengths[r]`. */
  *#gather(own: Uint8Array, lengths: readonly number[]): Generator<Work, Uint8Array[]> {
    const { engine, communicator } = this.#peers;
    let words = 0;
    const shards = lengths.map((length) => {
      const shard = { offset: words, count: Math.ceil(length / wordBytes) };
      words += shard.count;
      return shard;
    });
    const buffer = engine.allocate(words * wordBytes, { category: 'communication', name: 'json' });
    try {
      new Uint8Array(buffer.view(), shards[communicator.rank]!.offset * wordBytes).set(own);
      // An all-gather copies, so any bytes may travel as floats.
      yield engine.allGather({ buffer, byteOffset: 0, count: words, dtype: 'float32' }, shards);
      return shards.map(({ offset }, rank) =>
        new Uint8Array(buffer.view(), offset * wordBytes, lengths[rank]!).slice(),
      );
    } finally {
      buffer.dispose();
    }
  }
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

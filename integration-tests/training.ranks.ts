/** What integration tests train: scenarios, played by ranks that are threads. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { attemptRanks, type RankError, runRanks } from '../src/trainer/testing/run-ranks.ts';
import type { Sample } from '../src/transformers.ts';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';

const fixture = new URL('fixtures/training/scenario.ts', import.meta.url);

/** Every rank's outcome; throws what any of them threw. */
export function playRanks(worldSize: number, scenario: Scenario): Promise<Outcome[]> {
  return runRanks(fixture, worldSize, scenario);
}

/** Every rank's error; throws when one has none. */
export async function failRanks(worldSize: number, scenario: Scenario): Promise<RankError[]> {
  const replies = await attemptRanks(fixture, worldSize, scenario);
  return replies.map(({ error }, rank) => {
    if (!error) throw new Error(`rank ${rank} did not fail`);
    return error;
  });
}

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** A folder that is gone after the file's tests. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-test-'));
  folders.push(folder);
  return folder;
}

/**
 * Two layers, tied embeddings, dropout on: random numbers must not depend on the ranks either. Attention's
 * has a test of its own in zero.equality.test.ts.
 */
export const tinyGpt2 = {
  model_type: 'gpt2',
  vocab_size: 61,
  n_positions: 32,
  n_embd: 24,
  n_layer: 2,
  n_head: 3,
  embd_pdrop: 0.1,
  attn_pdrop: 0,
  resid_pdrop: 0.1,
};

/** Mulberry32: numbers in [0, 1) that only depend on the seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Samples of 4 to 20 tokens with something to learn; one label in seven does not count. */
export function raggedSamples(count: number, vocabulary = 61): Sample[] {
  const random = randomNumbers(count);
  const below = (bound: number) => Math.floor(random() * bound);
  return Array.from({ length: count }, () => {
    const ids = [below(vocabulary)];
    const length = 4 + below(17);
    while (ids.length < length) {
      ids.push(random() < 0.8 ? (ids.at(-1)! * 7 + 3) % vocabulary : below(vocabulary));
    }
    return { input_ids: ids, labels: ids.map((id) => (random() < 1 / 7 ? -100 : id)) };
  });
}

/** ‖a − b‖ / ‖b‖. */
export function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let index = 0; index < b.length; index += 1) {
    difference += (a[index]! - b[index]!) ** 2;
    norm += b[index]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/**
 * The elements of a parameter (or its gradient) that mean something. A bias of the keys adds one number
 * to all scores of a query, so the loss does not depend on it: its gradient is rounding noise, which
 * Adam blows up to full steps. GPT-2 keeps it as the middle third of c_attn.bias.
 */
export function withoutKeyBias(name: string, values: Float32Array): Float32Array {
  if (!name.endsWith('attn.c_attn.bias')) return values;
  const third = values.length / 3;
  return Float32Array.from([...values.subarray(0, third), ...values.subarray(2 * third)]);
}

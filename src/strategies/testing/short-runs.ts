/** For tests: short runs of ranks that are threads, and what is compared of them. */
import { expect } from 'vitest';
import { type RankResult, type RankTask, trainRanks } from '../../trainer/testing/train-ranks.ts';

export interface ShortRun extends Partial<RankTask> {
  deepspeed: Record<string, unknown>;
  /** Of the optimizer. */
  steps: number;
}

/** By rank, two unless it is said; none of them has failed. */
export async function run({ deepspeed, steps, args, ...task }: ShortRun): Promise<RankResult[]> {
  const ranks = await trainRanks({
    worldSize: 2,
    ...task,
    args: { maxSteps: steps, ...args, deepspeed },
  });
  for (const { error } of ranks) expect(error).toBeUndefined();
  return ranks;
}

/** The weights, so that equality is of bits. */
export function bits({ parameters }: RankResult): Record<string, Uint32Array> {
  return Object.fromEntries(
    [...parameters].map(([name, values]) => [name, new Uint32Array(values.buffer.slice(0))]),
  );
}

/** Of the last eight steps: a batch is small. */
export function lastLoss({ metrics }: RankResult): number {
  return metrics.slice(-8).reduce((sum, { loss }) => sum + loss, 0) / metrics.slice(-8).length;
}

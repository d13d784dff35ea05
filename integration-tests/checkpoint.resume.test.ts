import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Scenario } from './fixtures/training/scenario.ts';
import {
  playRanks,
  raggedSamples,
  relativeDifference,
  temporaryFolder,
  tinyGpt2,
  withoutKeyBias,
} from './training.ranks.ts';

/** 12 rows a step, four steps an epoch, so that step 5 lies within the second one. */
const samples = raggedSamples(43);
const folder = temporaryFolder();
const checkpoint = ([stage, worldSize]: readonly [number, number]) =>
  join(folder, `${stage}-${worldSize}`);

interface Run {
  stage: number;
  worldSize: number;
  outputDir: string;
  resumeFrom?: string;
}

function train({ stage, worldSize, outputDir, resumeFrom }: Run) {
  const scenario: Scenario = {
    model: tinyGpt2,
    samples,
    args: {
      outputDir,
      maxSteps: 10,
      ...(resumeFrom === undefined && { saveStrategy: 'steps', saveSteps: 5 }),
      deepspeed: {
        train_batch_size: 12,
        train_micro_batch_size_per_gpu: [6, 3, 2, 1][worldSize - 1],
        gradient_clipping: 0.5,
        optimizer: { type: 'AdamW', params: { lr: 2e-3, weight_decay: 0.1 } },
        zero_optimization: {
          stage,
          reduce_bucket_size: 3000,
          // Of stage 3: norms and biases stay whole, about a layer is gathered ahead.
          stage3_param_persistence_threshold: 100,
          stage3_prefetch_bucket_size: 5000,
          stage3_max_reuse_distance: 1,
        },
      },
    },
    ...(resumeFrom !== undefined && { resumeFrom }),
  };
  return playRanks(worldSize, scenario);
}

it.each([
  [0, 2],
  [1, 2],
  [2, 2],
  [2, 3],
  [3, 2],
  [3, 3],
  [0, 1],
])(
  'stage %i at %i ranks: five steps and five more are ten, to the bit',
  async (stage, worldSize) => {
    const outputDir = checkpoint([stage, worldSize]);
    const straight = await train({ stage, worldSize, outputDir });
    const resumed = await train({
      stage,
      worldSize,
      outputDir: temporaryFolder(),
      resumeFrom: join(outputDir, 'global_step5'),
    });
    expect(straight[0]!.losses).toHaveLength(10);
    // The losses of the first five steps come from the checkpoint.
    for (const [rank, outcome] of resumed.entries()) {
      const { memory: _, ...expected } = straight[rank]!;
      expect(outcome).toMatchObject(expected);
    }
  },
);

describe('a checkpoint goes on at another world size and stage', () => {
  it.each([
    { from: [2, 2], to: [0, 1] },
    { from: [0, 1], to: [2, 3] },
    { from: [2, 3], to: [1, 2] },
    { from: [1, 2], to: [2, 4] },
    { from: [3, 3], to: [0, 1] },
    { from: [3, 2], to: [1, 3] },
    { from: [2, 2], to: [3, 4] },
    { from: [0, 1], to: [3, 2] },
    { from: [3, 2], to: [3, 3] },
  ] as const)('from stage and ranks $from to $to', async ({ from, to }) => {
    const straight = await train({ stage: 0, worldSize: 1, outputDir: temporaryFolder() });
    const [stage, worldSize] = to;
    const [resumed] = await train({
      stage,
      worldSize,
      outputDir: temporaryFolder(),
      resumeFrom: join(checkpoint(from), 'global_step5'),
    });
    expect(resumed!.losses).toHaveLength(10);
    for (const [name, expected] of Object.entries(straight[0]!.parameters)) {
      const difference = relativeDifference(
        withoutKeyBias(name, resumed!.parameters[name]!),
        withoutKeyBias(name, expected),
      );
      expect(difference, name).toBeLessThan(1e-5);
    }
  });
});

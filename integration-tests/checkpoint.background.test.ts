/** Checkpoints written while the next step computes: the same files, and the same training. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

interface Run {
  stage: number;
  worldSize: number;
  asyncSave: boolean;
  outputDir?: string;
  resumeFrom?: string;
  config?: Record<string, unknown>;
  zero?: Record<string, unknown>;
}

function scenarioOf(run: Run): Scenario {
  const { stage, worldSize, asyncSave, outputDir, resumeFrom, config, zero } = run;
  return {
    model: tinyGpt2,
    samples: raggedSamples(24),
    ...(resumeFrom !== undefined && { resumeFrom }),
    args: {
      outputDir: outputDir ?? temporaryFolder(),
      maxSteps: 5,
      saveStrategy: 'steps',
      saveSteps: 2,
      asyncSave,
      deepspeed: {
        train_micro_batch_size_per_gpu: 6 / worldSize,
        optimizer: { type: 'AdamW', params: { lr: 2e-3 } },
        ...config,
        zero_optimization: { stage, reduce_bucket_size: 3000, sub_group_size: 2048, ...zero },
      },
    },
  };
}

function expectSame(actual: Outcome, expected: Outcome): void {
  expect(actual.losses).toEqual(expected.losses);
  expect(actual.parameters).toEqual(expected.parameters);
}

/** Tag and file → content; what a manifest says of its own folder is the same everywhere. */
function contents(folder: string): Record<string, Buffer> {
  const tags = readdirSync(folder).filter((name) => name.startsWith('global_step'));
  return Object.fromEntries(
    tags.flatMap((tag) =>
      readdirSync(join(folder, tag)).map((file) => [
        `${tag}/${file}`,
        readFileSync(join(folder, tag, file)),
      ]),
    ),
  );
}

const nvme = { device: 'nvme', nvme_path: temporaryFolder(), buffer_count: 10 };
const onDisk = {
  offload_optimizer: { ...nvme, pipeline_read: true, pipeline_write: true },
  offload_param: { ...nvme, max_in_cpu: 0 },
};

describe.each<[number, number, Record<string, unknown>, Record<string, unknown>?]>([
  [0, 1, {}],
  [2, 2, {}],
  [3, 2, { bf16: { enabled: true } }],
  [0, 2, { optimizer: { type: 'OneBitAdam', params: { lr: 2e-3, freeze_step: 2 } } }],
  [
    0,
    2,
    {
      optimizer: {
        type: 'ZeroOneAdam',
        params: { lr: 2e-3, var_freeze_step: 2, local_step_scaler: 1 },
      },
    },
  ],
  // What ranks have not sent yet changes in backward, before any update.
  [1, 2, { compression: { type: 'topk', ratio: 0.1 } }],
  [3, 1, {}, onDisk],
  [3, 2, {}, onDisk],
])('stage %i, %i ranks, %j, %j', (stage, worldSize, config, zero = {}) => {
  it('gives the same files as a save that is waited for', async () => {
    const [waited, beside] = [temporaryFolder(), temporaryFolder()];
    const run = { stage, worldSize, config, zero };
    const [plain] = await playRanks(
      worldSize,
      scenarioOf({ ...run, asyncSave: false, outputDir: waited }),
    );
    const [background] = await playRanks(
      worldSize,
      scenarioOf({ ...run, asyncSave: true, outputDir: beside }),
    );
    expectSame(background!, plain!);
    expect(Object.keys(contents(waited))).toContain('global_step5/manifest.json');
    expect(contents(beside)).toEqual(contents(waited));
    expect(readFileSync(join(beside, 'latest'), 'utf8')).toBe('global_step5\n');
    const resumeFrom = join(beside, 'global_step2');
    const [resumed] = await playRanks(
      worldSize,
      scenarioOf({ ...run, asyncSave: true, resumeFrom }),
    );
    expectSame(resumed!, plain!);
  });
});

/** ZeRO-Infinity: what lives on disk between its uses trains to the bits of what lives in memory. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const globalBatch = 12;
const samples = raggedSamples(2 * globalBatch + 7);
const disk = temporaryFolder();

const pipelined = { pipeline_read: true, pipeline_write: true };
/** Buffers for two sub-groups of every tensor that there is. */
const nvme = { device: 'nvme', nvme_path: disk, buffer_count: 10 };
const states = { offload_optimizer: { ...nvme, ...pipelined } };
const parameters = { offload_param: { ...nvme, max_in_cpu: 0 } };
const all = { ...states, ...parameters };
const partly = {
  offload_optimizer: { ...nvme, ratio: 0.6 },
  offload_param: { ...nvme, max_in_cpu: 9000 },
};

interface Run {
  worldSize: number;
  zero?: Record<string, unknown>;
  config?: Record<string, unknown>;
  microBatches?: number;
  args?: Partial<Scenario['args']>;
  resumeFrom?: string;
}

async function train(run: Run): Promise<Outcome> {
  const { worldSize, zero, config, microBatches = 1, args, ...rest } = run;
  const outcomes = await playRanks(worldSize, {
    model: tinyGpt2,
    samples,
    ...rest,
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 4,
      ...args,
      deepspeed: {
        train_micro_batch_size_per_gpu: globalBatch / worldSize / microBatches,
        gradient_accumulation_steps: microBatches,
        optimizer: { type: 'AdamW', params: { lr: 2e-3, weight_decay: 0.1 } },
        gradient_clipping: 0.5,
        aio: { block_size: 8192 },
        ...config,
        zero_optimization: {
          stage: 3,
          stage3_param_persistence_threshold: 100,
          stage3_prefetch_bucket_size: 5000,
          stage3_max_reuse_distance: 1,
          // Of some 17,000 parameters: several sub-groups a rank.
          sub_group_size: 2048,
          ...zero,
        },
      },
    },
  });
  for (const other of outcomes.slice(1)) expectSame(other, outcomes[0]!);
  expect(readdirSync(disk)).toEqual([]);
  return outcomes[0]!;
}

/**
 * Bitwise but for the reported norm: parameters on disk begin at multiples of 4096 bytes, so that shards
 * are cut elsewhere, and the squares of a norm, in fp64, are added in another order.
 */
function expectSame(actual: Outcome, expected: Outcome, what = ''): void {
  expect(expected.losses.every(Number.isFinite)).toBe(true);
  expect(actual.losses, what).toEqual(expected.losses);
  expect(actual.parameters, what).toEqual(expected.parameters);
  for (const [step, norm] of actual.gradientNorms.entries())
    expect(norm / expected.gradientNorms[step]!).toBeCloseTo(1, 12);
}

const bf16 = { bf16: { enabled: true } };

describe.each([
  { worldSize: 1, config: bf16 },
  { worldSize: 2, microBatches: 2 },
  { worldSize: 3, config: bf16 },
  { worldSize: 4 },
])('%o', (run) => {
  it('the bits are those of training in memory', async () => {
    const plain = await train(run);
    for (const [what, zero] of Object.entries({ states, parameters, all, partly })) {
      expectSame(await train({ ...run, zero }), plain, what);
    }
  });
});

it('one rank whose parameters fit: the optimizer works in the memory of the model', async () => {
  expectSame(await train({ worldSize: 1, zero: states }), await train({ worldSize: 1 }));
});

it('checkpoints go from any choice to any other, and to another number of ranks', async () => {
  const choices = { memory: {}, states, all, partly, 'stage 1': { stage: 1 } };
  const run = { worldSize: 2, config: bf16 };
  const saved = new Map<string, string>();
  let straight: Outcome | undefined;
  for (const name of ['memory', 'all', 'partly'] as const) {
    const outputDir = temporaryFolder();
    const args = { outputDir, saveStrategy: 'steps', saveSteps: 2 } as const;
    const outcome = await train({ ...run, zero: choices[name], args });
    straight ??= outcome;
    expectSame(outcome, straight, name);
    saved.set(name, join(outputDir, 'global_step2'));
  }
  for (const [from, to] of [
    ['memory', 'all'],
    ['all', 'partly'],
    ['partly', 'stage 1'],
    ['partly', 'states'],
  ] as const) {
    const resumed = await train({ ...run, zero: choices[to], resumeFrom: saved.get(from)! });
    expectSame(resumed, straight!, `${from} to ${to}`);
  }
  const other = { worldSize: 3, config: bf16, args: { maxSteps: 3 } };
  expectSame(
    await train({ ...other, zero: all, resumeFrom: saved.get('memory')! }),
    await train({ ...other, resumeFrom: saved.get('all')! }),
  );
});

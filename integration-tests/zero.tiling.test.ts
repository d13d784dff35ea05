/**
 * Tables in tiles of rows beside what goes with them: where tiles are kept and when they are read changes no bit, and
 * evaluation gives what the whole table gives.
 */
import { describe, expect, it } from 'vitest';
import type { Scenario } from './fixtures/training/scenario.ts';
import { pairwise, type Row } from './pairwise.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const globalBatch = 12;
const samples = raggedSamples(2 * globalBatch - 5);
const disk = temporaryFolder();
/** Elements of the tables are 61 × 16 here: tiles of 15 rows. */
const tiled = 480;

const options = {
  worldSize: [1, 2, 3],
  precision: ['fp32', 'bf16'],
  tied: [true, false],
  frozen: [null, 'transformer.h.0', 'transformer.wte'],
  microBatches: [1, 3],
  checkpoint: [false, 2],
  prefetch: [0, 600],
  optimizerOnDisk: [true, false],
} as const;
type Case = Row<typeof options>;

function scenarioOf(row: Case, live: number, kept: number): Scenario {
  const { worldSize, microBatches, precision } = row;
  const nvme = { device: 'nvme', nvme_path: disk, buffer_count: 12 };
  return {
    model: { ...tinyGpt2, vocab_size: 61, tie_word_embeddings: row.tied },
    ...(row.frozen !== null && { freeze: row.frozen }),
    samples,
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 2,
      gradientCheckpointing: row.checkpoint,
      deepspeed: {
        train_micro_batch_size_per_gpu: Math.floor(globalBatch / worldSize / microBatches),
        gradient_accumulation_steps: microBatches,
        optimizer: { type: 'AdamW', params: { lr: 2e-3 } },
        ...(precision !== 'fp32' && { [precision]: { enabled: true } }),
        zero_optimization: {
          stage: 3,
          sub_group_size: 2048,
          stage3_max_live_parameters: live,
          stage3_param_persistence_threshold: 100,
          stage3_prefetch_bucket_size: row.prefetch,
          stage3_max_reuse_distance: 1,
          ...(row.optimizerOnDisk && kept === 0 && { offload_optimizer: nvme }),
          offload_param: { ...nvme, max_in_cpu: kept },
        },
      },
    },
  };
}

const rows: Case[] = pairwise(options);

it.each(rows.map((row) => [JSON.stringify(row), row] as const))('%s', async (_, row) => {
  const [inMemory] = await playRanks(
    row.worldSize,
    scenarioOf({ ...row, prefetch: 0 }, tiled, 1e9),
  );
  const outcomes = await playRanks(row.worldSize, scenarioOf(row, tiled, 0));
  expect(inMemory!.losses.every(Number.isFinite)).toBe(true);
  for (const outcome of outcomes) {
    expect(outcome.losses).toEqual(inMemory!.losses);
    expect(outcome.parameters).toEqual(inMemory!.parameters);
  }
});

describe('evaluation, prediction and generation', () => {
  it.each([true, false])('are those of the whole table, tied: %s', async (tied) => {
    const row: Case = { ...rows[0]!, worldSize: 2, precision: 'fp32', frozen: null, tied };
    const looking = { evaluateOn: samples, generate: { prompt: [3, 1, 4], maxNewTokens: 5 } };
    const play = (live: number) =>
      playRanks(2, {
        ...scenarioOf(row, live, 0),
        ...looking,
        args: { ...scenarioOf(row, live, 0).args, maxSteps: 1, learningRate: 2e-3 },
      });
    const [plain, parts] = [await play(1e9), await play(tiled)];
    expect(parts[0]!.generated).toEqual(plain[0]!.generated);
    // The step before has moved weights by at most 2e-3, and of those with gradients near 0 Adam may have turned the
    // sign: what follows is compared to so much; the losses of the step itself to roundings.
    expect(Math.abs(parts[0]!.losses[0]! / plain[0]!.losses[0]! - 1)).toBeLessThan(150 * 2 ** -24);
    expect(parts[0]!.evaluation.eval_loss).toBeCloseTo(plain[0]!.evaluation.eval_loss!, 4);
    for (const [index, logits] of Object.entries(plain[0]!.predictions)) {
      const own = parts[0]!.predictions[Number(index)]!;
      expect(own.length).toBe(logits.length);
      logits.forEach((value, at) => {
        expect(own[at]).toBeCloseTo(value, 3);
      });
    }
  });
});

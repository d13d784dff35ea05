/**
 * Random rows over all options at once, where zero.pairwise.test.ts has pairs: three steps and two checkpoints, then from the
 * first one on with other placement at another number of ranks. The bits are those of stage 0. For other rows, and more:
 * SEED=7 ROWS=20 npx vitest run integration-tests/zero.random.test.ts
 */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import {
  playRanks,
  raggedSamples,
  randomNumbers,
  temporaryFolder,
  tinyGpt2,
} from './training.ranks.ts';

const { SEED = '1', ROWS = '2' } = process.env;
const random = randomNumbers(Number(SEED));
const globalBatch = 12;
const samples = raggedSamples(3 * globalBatch - 5);
/** Elements of a table's tile, of 61 × 24. */
const tile = 480;
const everything = 1e9;

/** What is computed. */
interface Arithmetic {
  precision: 'fp32' | 'bf16' | 'fp16';
  tied: boolean;
  frozen: string | null;
  microBatches: number;
  clipping: number;
  layerDrop: boolean;
  attentionDropout: number;
  tiled: boolean;
}

/** Where it lies, and when it moves. */
interface Placement {
  worldSize: number;
  stage: number;
  checkpoint: boolean | number;
  persistence: number;
  prefetch: number;
  offload: 'none' | 'states' | 'all';
  reading: 'in place' | 'apart' | 'second copy';
  asyncSave: boolean;
}

function pick<T>(...values: T[]): T {
  return values[Math.floor(random() * values.length)]!;
}

function randomPlacement({ tiled, clipping }: Arithmetic): Placement {
  const worldSize = pick(1, 2, 3, 4);
  const stage = tiled ? 3 : pick(0, 1, 2, 3, 3, 3);
  // A norm that comes from the disk is added up in another order, which clipping would show.
  const inMemory = stage < 3 || tiled || clipping > 0;
  return {
    worldSize,
    stage,
    checkpoint: pick<boolean | number>(false, 1, 2),
    persistence: pick(0, 100, everything),
    prefetch: pick(0, 5000),
    offload: inMemory ? 'none' : pick('none', 'states', 'all'),
    reading: pick('in place', 'apart', 'second copy'),
    asyncSave: pick(true, false),
  };
}

function randomRow(): [Arithmetic, Placement, Placement] {
  const arithmetic: Arithmetic = {
    precision: pick('fp32', 'bf16', 'fp16'),
    tied: pick(true, false),
    frozen: pick(null, 'transformer.wte', 'transformer.h.0'),
    microBatches: pick(1, 3),
    clipping: pick(0, 0.5),
    layerDrop: pick(true, false),
    attentionDropout: pick(0, 0.1),
    tiled: pick(true, false, false),
  };
  return [arithmetic, randomPlacement(arithmetic), randomPlacement(arithmetic)];
}

const nvme = { device: 'nvme', nvme_path: temporaryFolder(), buffer_count: 12 };

/** @param kept elements of parameters that stay in memory where they are offloaded */
function offloaded({ tiled }: Arithmetic, { offload }: Placement, kept: number): object {
  if (tiled) {
    return { stage3_max_live_parameters: tile, offload_param: { ...nvme, max_in_cpu: kept } };
  }
  return {
    ...(offload !== 'none' && { offload_optimizer: nvme }),
    ...(offload === 'all' && { offload_param: { ...nvme, max_in_cpu: 0 } }),
  };
}

function scenarioOf(arithmetic: Arithmetic, placement: Placement, kept = 0): Scenario {
  const { precision, microBatches, attentionDropout } = arithmetic;
  const { worldSize, stage, reading } = placement;
  const copies = stage === 3 && worldSize % 2 === 0 && reading === 'second copy';
  const scale = precision === 'fp16' ? { initial_scale_power: 12 } : {};
  return {
    model: {
      ...tinyGpt2,
      n_layer: 3,
      attn_pdrop: attentionDropout,
      tie_word_embeddings: arithmetic.tied,
    },
    ...(arithmetic.frozen !== null && { freeze: arithmetic.frozen }),
    samples,
    apart: reading !== 'in place',
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 3,
      saveStrategy: 'steps',
      saveSteps: 1,
      asyncSave: placement.asyncSave,
      gradientCheckpointing: placement.checkpoint,
      deepspeed: {
        train_micro_batch_size_per_gpu: Math.floor(globalBatch / worldSize / microBatches),
        gradient_accumulation_steps: microBatches,
        gradient_clipping: arithmetic.clipping,
        optimizer: { type: 'AdamW', params: { lr: 2e-3 } },
        ...(precision !== 'fp32' && { [precision]: { enabled: true, ...scale } }),
        progressive_layer_drop: { enabled: arithmetic.layerDrop, theta: 0.5, gamma: 1 },
        zero_optimization: {
          stage,
          reduce_bucket_size: 3000,
          sub_group_size: 2048,
          // docs/zero.md: what makes the bits of stages 2 and 3 with accumulation those of stage 0.
          reduce_at_boundary: true,
          stage3_param_persistence_threshold: placement.persistence,
          stage3_prefetch_bucket_size: placement.prefetch,
          stage3_max_reuse_distance: 1,
          ...(copies &&
            !arithmetic.tiled &&
            placement.offload !== 'all' && { zero_hpz_partition_size: 2 }),
          ...offloaded(arithmetic, placement, kept),
        },
      },
    },
  };
}

/** Stage 0 where it lies; what is in tiles is tiled, and lies in memory. */
function plain(arithmetic: Arithmetic, { worldSize }: Placement): Scenario {
  const placement: Placement = {
    worldSize,
    stage: arithmetic.tiled ? 3 : 0,
    checkpoint: false,
    persistence: 0,
    prefetch: 0,
    offload: 'none',
    reading: 'in place',
    asyncSave: false,
  };
  return scenarioOf(arithmetic, placement, everything);
}

const rows = Array.from({ length: Number(ROWS) }, randomRow);

it.each(rows.map((row) => [JSON.stringify(row), row] as const))(
  '%s',
  async (_, [arithmetic, first, second]) => {
    const expected = plain(arithmetic, first);
    const actual = scenarioOf(arithmetic, first);
    expectSame(
      await playRanks(first.worldSize, actual),
      await playRanks(first.worldSize, expected),
    );
    const resumed = (scenario: Scenario, from: Scenario) =>
      playRanks(second.worldSize, {
        ...scenario,
        resumeFrom: join(from.args.outputDir, 'global_step1'),
      });
    expectSame(
      await resumed(scenarioOf(arithmetic, second), actual),
      await resumed(plain(arithmetic, second), expected),
    );
  },
);

function expectSame(outcomes: readonly Outcome[], [expected]: readonly Outcome[]): void {
  expect(expected!.losses.every(Number.isFinite)).toBe(true);
  for (const { losses, parameters } of outcomes) {
    expect(losses).toEqual(expected!.losses);
    expect(parameters).toEqual(expected!.parameters);
  }
}

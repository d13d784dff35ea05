/**
 * Every pair of options of ZeRO and of what goes with it, at 1 to 4 ranks: whatever is sharded, gathered, kept or
 * computed again, the bits are those of stage 0 with nothing but the options that change the arithmetic.
 */
import { expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { pairwise, type Row } from './pairwise.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const globalBatch = 12;
const samples = raggedSamples(2 * globalBatch - 5);

/** These decide what is computed. */
const arithmetic = {
  worldSize: [1, 2, 3, 4],
  precision: ['fp32', 'bf16', 'fp16'],
  tied: [true, false],
  frozen: [null, 'transformer.wte', 'transformer.h.0'],
  microBatches: [1, 3],
  optimizer: ['AdamW', 'SGD'],
} as const;
/** These only decide where it lies, and when it moves. */
const placement = {
  stage: [3, 2, 1, 0],
  checkpoint: [false, 1, 2],
  persistence: [0, 100, 1e6],
  prefetch: [0, 5000],
  reuse: [0, 1, 1e9],
  buckets: [3000, 1e6],
  reduceScatter: [true, false],
  overlap: [true, false],
  offload: ['none', 'cpu', 'states', 'all'],
  /** Of parameters: read where peers have them, gathered as between machines, or so once and then from a second copy. */
  reading: ['in place', 'apart', 'second copy'],
} as const;

type Case = Row<typeof arithmetic & typeof placement>;

const nvme = { device: 'nvme', nvme_path: temporaryFolder(), buffer_count: 10 };

/** The disk is stage 3's: below it `states` and `all` are as `cpu`. */
function isOnDisk({ stage, offload }: Case): boolean {
  return stage === 3 && (offload === 'states' || offload === 'all');
}

function offloadOf(row: Case): Record<string, unknown> {
  const { stage, offload } = row;
  const device = offload === 'none' ? 'none' : 'cpu';
  if (!isOnDisk(row)) {
    return {
      ...(stage > 0 && { offload_optimizer: { device } }),
      ...(stage === 3 && { offload_param: { device } }),
    };
  }
  return {
    sub_group_size: 2048,
    offload_optimizer: { ...nvme, pipeline_read: true, pipeline_write: true },
    ...(offload === 'all' && { offload_param: { ...nvme, max_in_cpu: 0 } }),
  };
}

/** A second copy needs a whole number of groups, and parameters in memory. */
function hasSecondCopy({ stage, worldSize, reading, offload }: Case): boolean {
  return stage === 3 && worldSize % 2 === 0 && reading === 'second copy' && offload !== 'all';
}

function scenarioOf(row: Case): Scenario {
  const { worldSize, microBatches, stage, precision } = row;
  const scale = precision === 'fp16' ? { initial_scale_power: 12 } : {};
  return {
    model: { ...tinyGpt2, tie_word_embeddings: row.tied },
    ...(row.frozen !== null && { freeze: row.frozen }),
    samples,
    apart: row.reading !== 'in place',
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 3,
      gradientCheckpointing: row.checkpoint,
      deepspeed: {
        train_micro_batch_size_per_gpu: Math.floor(globalBatch / worldSize / microBatches),
        gradient_accumulation_steps: microBatches,
        optimizer: { type: row.optimizer, params: { lr: 2e-3 } },
        ...(precision !== 'fp32' && { [precision]: { enabled: true, ...scale } }),
        zero_optimization: {
          stage,
          reduce_bucket_size: row.buckets,
          reduce_scatter: row.reduceScatter,
          overlap_comm: row.overlap,
          // docs/zero.md: what makes the bits of stages 2 and 3 with accumulation those of stage 0.
          reduce_at_boundary: true,
          stage3_param_persistence_threshold: row.persistence,
          stage3_prefetch_bucket_size: row.prefetch,
          stage3_max_reuse_distance: row.reuse,
          ...(hasSecondCopy(row) && { zero_hpz_partition_size: 2 }),
          ...offloadOf(row),
        },
      },
    },
  };
}

const plain = Object.fromEntries(
  Object.entries({ ...placement, stage: [0] }).map(([name, [first]]) => [name, first]),
) as Row<typeof placement>;

const references = new Map<string, Promise<Outcome[]>>();

/** Stage 0 with the row's arithmetic, run once. */
function reference(row: Case): Promise<Outcome[]> {
  const scenario = scenarioOf({ ...row, ...plain });
  const key = JSON.stringify({ ...scenario, args: { ...scenario.args, outputDir: '' } });
  const known = references.get(key) ?? playRanks(row.worldSize, scenario);
  references.set(key, known);
  return known;
}

const rows: Case[] = pairwise({ ...arithmetic, ...placement });

it('covers every pair', () => {
  const options = Object.entries({ ...arithmetic, ...placement }) as [
    keyof Case,
    readonly unknown[],
  ][];
  for (const [one, values] of options) {
    for (const [other, others] of options) {
      if (one === other) continue;
      const pairs = new Set(rows.map((row) => JSON.stringify([row[one], row[other]])));
      expect(pairs.size, `${one} and ${other}`).toBe(values.length * others.length);
    }
  }
});

it.each(rows.map((row) => [JSON.stringify(row), row] as const))('%s', async (_, row) => {
  const [[expected], outcomes] = [
    await reference(row),
    await playRanks(row.worldSize, scenarioOf(row)),
  ];
  expect(expected!.losses.every(Number.isFinite)).toBe(true);
  for (const outcome of outcomes) {
    expect(outcome.losses).toEqual(expected!.losses);
    if (!isOnDisk(row)) expect(outcome.gradientNorms).toEqual(expected!.gradientNorms);
    // What direct I/O moves is cut elsewhere: the squares of a norm are added in another order.
    for (const [step, norm] of outcome.gradientNorms.entries()) {
      expect(norm / expected!.gradientNorms[step]!).toBeCloseTo(1, 12);
    }
    expect(outcome.parameters).toEqual(expected!.parameters);
  }
});

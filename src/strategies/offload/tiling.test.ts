/** Embeddings and heads that are moved in tiles of rows: the model is the one that is trained without. */
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type RankResult,
  type RankTask,
  removeFolders,
  temporaryFolder,
  train,
} from '../../trainer/testing/train-ranks.ts';

afterAll(removeFolders);

const folder = temporaryFolder();
/** Of the model's 61 × 16 table. */
const wte = 'transformer.wte.weight';
/** 240 elements, 15 rows a tile: 5 tiles. */
const tiled = 480;
const whole = 1e9;

/** Everything on disk; `live` elements may be in memory at a time. */
const onDisk = (live: number, more: object = {}) => {
  const nvme = { device: 'nvme', nvme_path: folder, buffer_count: 12 };
  return {
    zero_optimization: {
      stage: 3,
      stage3_max_live_parameters: live,
      stage3_param_persistence_threshold: 64,
      stage3_prefetch_bucket_size: 500,
      stage3_max_reuse_distance: 1,
      sub_group_size: 2048,
      offload_optimizer: nvme,
      offload_param: { ...nvme, max_in_cpu: 0 },
    },
    ...more,
  };
};

const run = (deepspeed: Record<string, unknown>, more: Partial<RankTask> = {}) =>
  train({ worldSize: 2, ...more, args: { maxGradNorm: 0, ...more.args, deepspeed } });

/** Largest difference over all parameters. */
function farthest(one: RankResult, other: RankResult): number {
  let most = 0;
  for (const [name, values] of one.parameters) {
    const against = other.parameters.get(name)!;
    expect(values.length).toBe(against.length);
    values.forEach((value, index) => {
      most = Math.max(most, Math.abs(value - against[index]!));
    });
  }
  return most;
}

describe('one step of plain gradient descent', () => {
  const sgd = { optimizer: { type: 'SGD', params: { lr: 1 } } };

  it.each([1, 2])('is that of the whole table, %d ranks', async (worldSize) => {
    const once = { worldSize, args: { maxSteps: 1, learningRate: 1 } };
    const [plain, parts] = [
      await run(onDisk(whole, sgd), once),
      await run(onDisk(tiled, sgd), once),
    ];
    expect(parts.parameters.get(wte)).toHaveLength(61 * 16);
    // The log-sum-exp of 61 scores is rounded once more, and each slope twice. What follows from the slopes, all
    // gradients, sums at most 61 + 16 + 64 terms in another order.
    const rounding = (61 + 16 + 64 + 3) * 2 ** -24;
    expect(Math.abs(parts.metrics[0]!.loss / plain.metrics[0]!.loss - 1)).toBeLessThan(rounding);
    const largest = Math.max(
      ...[...plain.parameters.values()].flatMap((all) => [...all].map(Math.abs)),
    );
    expect(farthest(parts, plain)).toBeLessThan(rounding * largest);
    expect(farthest(parts, plain)).toBeGreaterThan(0);
  });
});

it.each([
  [tiled, [`stage3_max_live_parameters 480: ${wte} in 5 tiles of 15 rows`]],
  // 61 rows in 32 tiles at most; the 16 positions are a table as well.
  [
    0,
    [
      `stage3_max_live_parameters 0: ${wte} in 31 tiles of 2 rows, of which two are 64 elements; ` +
        'transformer.wpe.weight in 16 tiles of 1 row, of which two are 32 elements',
    ],
  ],
  [whole, []],
])('what is in tiles is said at the start: %d', async (live, lines) => {
  const { lines: printed } = await run(onDisk(live), { worldSize: 1, args: { maxSteps: 1 } });
  expect(printed.filter((line) => line.includes('tiles'))).toEqual(lines);
});

it.each([
  ['tiles', tiled, whole],
  ['a whole table', whole, tiled],
])(
  'a checkpoint knows the table: what was written from %s loads into the other',
  async (_, from, to) => {
    const outputDir = temporaryFolder();
    const saving = { saveStrategy: 'steps', saveSteps: 1, maxSteps: 1, outputDir } as const;
    const written = await run(onDisk(from), { args: saving });
    const manifest = readFileSync(join(outputDir, 'global_step1', 'manifest.json'), 'utf8');
    const { layout } = JSON.parse(manifest) as { layout: { name: string; start?: number }[] };
    const starts = layout.flatMap(({ name, start }) => (name === wte ? [start] : []));
    expect(starts).toEqual(from === tiled ? [960, 720, 480, 240, 0] : [undefined]);
    // It has taken all its steps: what it ends with is what it has loaded.
    const loaded = await run(onDisk(to), {
      worldSize: 1,
      resumeFromCheckpoint: outputDir,
      args: { maxSteps: 1 },
    });
    expect(loaded.parameters).toEqual(written.parameters);
  },
);

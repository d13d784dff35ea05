/** Layer drop under ZeRO, accumulation, 16 bits and resume; ranks are threads. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import {
  type RankResult,
  type RankTask,
  removeFolders,
  temporaryFolder,
  train as trainOnce,
  trainRanks,
} from '../trainer/testing/train-ranks.ts';
import { AutoModelForCausalLM, Trainer } from '../transformers.ts';
import { drawLayers } from './progressive-layer-drop.ts';

afterAll(removeFolders);

// The model has two layers; the second is kept with probability 0.55 from the second step on.
const options = { theta: 0.1, gamma: 20 };
const seed = 42;
const maxSteps = 8;
const drawn = Array.from({ length: maxSteps }, (_, step) => drawLayers(step, 2, seed, options));
const dropped = drawn.flatMap((scales, step) => (scales[1] === 0 ? [step] : []));

const runs = new Map<string, Promise<RankResult>>();

/** Equal tasks are run once. */
function train(wanted: RankTask): Promise<RankResult> {
  const key = JSON.stringify(wanted);
  const run = runs.get(key) ?? trainOnce(wanted);
  runs.set(key, run);
  return run;
}

type Extra = Omit<RankTask, 'args'> & { args?: Partial<RankTask['args']> };

const task = (deepspeed: object, { args, ...rest }: Extra = {}): RankTask => ({
  worldSize: 2,
  ...rest,
  args: {
    maxSteps,
    seed,
    ...args,
    deepspeed: {
      ...deepspeed,
      progressive_layer_drop: { enabled: true, ...options },
    },
  },
});

function bits({ parameters }: RankResult): Record<string, Uint32Array> {
  return Object.fromEntries(
    [...parameters].map(([name, values]) => [name, new Uint32Array(values.buffer.slice(0))]),
  );
}

const losses = ({ metrics }: RankResult) => metrics.map(({ loss }) => loss);
const stage = (value: number) => ({
  zero_optimization: {
    stage: value,
    reduce_bucket_size: 500,
    // Of stage 3: norms and biases stay whole, about a layer is gathered ahead.
    stage3_param_persistence_threshold: 64,
    stage3_prefetch_bucket_size: 3000,
    stage3_max_reuse_distance: 1,
  },
});

it('these steps drop layers, and not all do', () => {
  expect(dropped.length).toBeGreaterThan(1);
  expect(dropped.length).toBeLessThan(maxSteps - 1);
});

describe('ZeRO', () => {
  it.each([1, 2, 3])('stage %i learns what stage 0 does, bit for bit', async (value) => {
    expect(bits(await train(task(stage(value))))).toEqual(bits(await train(task(stage(0)))));
  });

  it('every rank learns the same', async () => {
    const ranks = await trainRanks(task(stage(2)));
    expect(bits(ranks[1]!)).toEqual(bits(ranks[0]!));
    expect(losses(ranks[1]!)).toEqual(losses(ranks[0]!));
  });

  it('two ranks learn what one with twice the batch does, but for rounding', async () => {
    const one = await train(task(stage(0), { worldSize: 1, args: { perDeviceTrainBatchSize: 8 } }));
    for (const [step, loss] of losses(one).entries())
      expect(Math.abs(loss - losses(await train(task(stage(0))))[step]!)).toBeLessThan(1e-4);
  });

  it.each([0, 1, 2, 3])('stage %i does not send the gradient of a dropped layer', async (value) => {
    const operation = value === 0 ? 'allReduce' : 'reduceScatter';
    const bytes = dropped.length * (matrices + vectors) * 4;
    expect(await saved(operation, stage(value))).toBe(bytes);
  });

  it('stage 3 gathers the matrices of a dropped layer for neither pass', async () => {
    expect(await saved('allGatherJoint', stage(3))).toBe(2 * dropped.length * matrices * 4);
  });
});

// Of a layer, in floats: qkv, projection and both halves of the feed-forward; then two norms and biases.
const matrices = 16 * 48 + 16 * 16 + 2 * 16 * 64;
const vectors = 2 * 32 + 48 + 16 + 64 + 16;

/**
 * Bytes that a run which drops layers sends less than one that does not. What ranks tell each other before the first
 * step is not counted: it is smaller than a layer's gathered matrices, and than its gradients.
 */
async function saved(operation: string, deepspeed: object, extra: Extra = {}): Promise<number> {
  const least = operation.startsWith('allGather') ? 4000 : 16;
  const sent = async (run: Promise<RankResult>) =>
    (await run).stats
      .filter((entry) => entry.operation === operation && entry.bytes > least)
      .reduce((sum, { bytes, calls }) => sum + bytes * calls, 0);
  const dropping = task(deepspeed, extra);
  const whole: RankTask = { ...dropping, args: { ...dropping.args, deepspeed: { ...deepspeed } } };
  return (await sent(train(whole))) - (await sent(train(dropping)));
}

describe('activation checkpoints', () => {
  it.each([0, 3])('of single layers change nothing at stage %i, bit for bit', async (value) => {
    const recomputing = task(stage(value), { args: { gradientCheckpointing: true } });
    expect(bits(await train(recomputing))).toEqual(bits(await train(task(stage(value)))));
  });

  // Embedding, five layers and head: the last layers are a group of two or three.
  const layers = 5;
  const draws = Array.from({ length: maxSteps }, (_, step) =>
    drawLayers(step, layers, seed, options).map((scale) => scale > 0),
  );

  it('these steps drop any layer of a group, and all', () => {
    const kept = (from: number) => draws.map((draw) => draw.slice(from).map(Number).join(''));
    expect(kept(3)).toEqual(expect.arrayContaining(['11', '10', '01', '00']));
    expect(kept(2)).toEqual(expect.arrayContaining(['111', '110', '101', '100', '010', '000']));
  });

  it.each([
    [2, 0],
    [2, 2],
    [2, 3],
    [3, 0],
    [3, 1],
    [3, 3],
  ])('of %i segments change nothing at stage %i, bit for bit', async (every, value) => {
    const grouped = task(stage(value), { layers, args: { gradientCheckpointing: every } });
    expect(bits(await train(grouped))).toEqual(bits(await train(task(stage(value), { layers }))));
  });

  // Windows, where memory of one layer serves the next.
  it.each([1, 2, 3])('of %i change nothing at stage 3 apart, bit for bit', async (every) => {
    const extra = { layers, apart: true };
    const grouped = task(stage(3), { ...extra, args: { gradientCheckpointing: every } });
    expect(bits(await train(grouped))).toEqual(bits(await train(task(stage(0), { layers }))));
  });

  const nvme = { device: 'nvme', nvme_path: temporaryFolder() };
  it.each([
    ['gathered far ahead', { stage3_prefetch_bucket_size: 1e6 }],
    ['on disk', { offload_param: nvme, offload_optimizer: nvme }],
    ['kept in a second shard', { zero_hpz_partition_size: 2 }],
  ])('of 3 change nothing where parameters are %s in 16 bits', async (_, keys) => {
    const bf16 = { bf16: { enabled: true } };
    const zero = { ...stage(3).zero_optimization, stage3_param_persistence_threshold: 0, ...keys };
    const extra = { layers, apart: true, args: { gradientCheckpointing: 3 } };
    const grouped = await train(task({ ...bf16, zero_optimization: zero }, extra));
    expect(bits(grouped)).toEqual(bits(await train(task({ ...bf16, ...stage(0) }, { layers }))));
  });

  it.each([
    [2, false],
    [2, true],
    [3, false],
    [3, true],
  ])('of %i gather nothing of a dropped layer, apart %j', async (every, apart) => {
    // Every pass gathers for itself.
    const zero = { ...stage(3).zero_optimization, stage3_max_reuse_distance: 0 };
    const bytes = await saved(
      apart ? 'allGather' : 'allGatherJoint',
      { zero_optimization: zero },
      { layers, apart, args: { gradientCheckpointing: every } },
    );
    // The first segment is the embedding. The last of a group runs again where its backward does.
    const gathers = draws.flatMap((draw) =>
      draw.map((kept, layer) => (kept ? 0 : (layer + 2) % every === 0 ? 2 : 3)),
    );
    const all = gathers.reduce<number>((sum, count) => sum + count, 0);
    expect(bytes).toBe(all * matrices * 4);
  });

  it.each([
    [1, 3],
    [3, 3],
    [4, 2],
  ])(
    'of 2, saved in the background by two ranks, are resumed by %i at stage %i',
    async (ranks, value) => {
      const common = { gradientCheckpointing: 2, asyncSave: true } as const;
      const saving = { outputDir: temporaryFolder(), saveStrategy: 'steps', saveSteps: 3 } as const;
      const batch = (rows: number, micro: number) => ({
        perDeviceTrainBatchSize: rows,
        gradientAccumulationSteps: micro,
      });
      // Twelve rows a step.
      const through = await train(
        task(stage(3), { layers, args: { ...common, ...saving, ...batch(2, 3) } }),
      );
      const resumed = await train(
        task(stage(value), {
          layers,
          worldSize: ranks,
          args: { ...common, outputDir: temporaryFolder(), ...batch(1, 12 / ranks) },
          resumeFromCheckpoint: `${saving.outputDir}/global_step3`,
        }),
      );
      expect(resumed.metrics.map(({ step }) => step)).toEqual([4, 5, 6, 7, 8]);
      for (const [step, loss] of losses(resumed).entries())
        expect(Math.abs(loss - losses(through)[step + 3]!)).toBeLessThan(1e-4);
    },
  );
});

describe.each([0, 1, 2, 3])('at stage %i', (value) => {
  const accumulation = { gradientAccumulationSteps: 2, perDeviceTrainBatchSize: 2 };

  it('two micro batches learn what one of twice the size does, but for rounding', async () => {
    const whole = await train(task(stage(value)));
    const halves = await train(task(stage(value), { args: accumulation }));
    for (const [step, loss] of losses(halves).entries())
      expect(Math.abs(loss - losses(whole)[step]!)).toBeLessThan(1e-4);
  });

  it('resume equals never stopping, bit for bit', async () => {
    const outputDir = temporaryFolder();
    const saving = { ...accumulation, outputDir, saveStrategy: 'steps', saveSteps: 3 } as const;
    const through = await train(task(stage(value), { args: saving }));
    const resumed = await train(
      task(stage(value), {
        args: { ...accumulation, outputDir: temporaryFolder() },
        resumeFromCheckpoint: `${outputDir}/global_step3`,
      }),
    );
    expect(resumed.metrics.map(({ step }) => step)).toEqual([4, 5, 6, 7, 8]);
    expect(bits(resumed)).toEqual(bits(through));
  });

  it.skipIf(value === 0)('16-bit gradients are those of stage 0, bit for bit', async () => {
    const keys = { bf16: { enabled: true }, ...stage(value) };
    const base = { bf16: { enabled: true }, ...stage(0) };
    expect(bits(await train(task(keys)))).toEqual(bits(await train(task(base))));
  });
});

it('is another run with another seed', async () => {
  const other = await train(task(stage(0), { args: { seed: 7 } }));
  expect(losses(other)).not.toEqual(losses(await train(task(stage(0)))));
});

// Moments decay and weights shrink as with a gradient of zero, which is what DeepSpeed makes of a missing one.
it('a dropped layer has a gradient of zero for the optimizer', async () => {
  const sgd = {
    optimizer: { type: 'SGD', params: { lr: 'auto', momentum: 0.9 } },
    gradient_clipping: 0,
  };
  // A step that drops the layer after two that keep it.
  const first = dropped.find(
    (step) => !dropped.includes(step - 1) && !dropped.includes(step - 2) && step > 1,
  )!;
  const parametersAfter = async (steps: number) =>
    (
      await train(
        task({ ...sgd, ...stage(1) }, { args: { maxSteps: steps, lrSchedulerType: 'constant' } }),
      )
    ).parameters;
  const [earlier, before, after] = await Promise.all([
    parametersAfter(first - 1),
    parametersAfter(first),
    parametersAfter(first + 1),
  ]);
  const name = 'transformer.h.1.mlp.c_fc.weight';
  // PyTorch's momentum: the step is lr·buffer, and without a gradient the buffer shrinks by 0.9.
  const [a, b, c] = [earlier.get(name)!, before.get(name)!, after.get(name)!];
  const largest = Math.max(...b.map((value, i) => Math.abs(value - a[i]!)));
  expect(largest).toBeGreaterThan(0);
  for (let i = 0; i < a.length; i++)
    expect(Math.abs(c[i]! - b[i]! - 0.9 * (b[i]! - a[i]!))).toBeLessThan(1e-6);
});

it('a saved model is whole: files of a run that drops layers are those of one that does not', async () => {
  const printed = vi.spyOn(console, 'log').mockReturnValue();
  const save = async (enabled: boolean) => {
    const outputDir = temporaryFolder();
    const trainer = new Trainer({
      model: AutoModelForCausalLM.fromConfig({
        ...{ model_type: 'gpt2', vocab_size: 31, n_positions: 8, n_embd: 8, n_layer: 2, n_head: 2 },
        ...{ attn_pdrop: 0, resid_pdrop: 0, embd_pdrop: 0 },
      }),
      trainDataset: { length: 4, get: (i) => ({ input_ids: [i, 2, 3, 4, 5, 6, 7, 8] }) },
      args: {
        outputDir,
        deepspeed: { progressive_layer_drop: { enabled, ...options } },
        // Weights stay, so that nothing but the graph can differ.
        ...{ learningRate: 0, maxSteps, seed, perDeviceTrainBatchSize: 1 },
        ...{ saveStrategy: 'no', reportTo: [], disableTqdm: true },
      },
      runtime: { threads: 1 },
    });
    const { trainingLoss } = await trainer.train();
    const folder = join(outputDir, 'model');
    await trainer.saveModel(folder);
    await trainer.close();
    const files = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
    const contents = files.map((file) => [
      relative(folder, file),
      readFileSync(file).toString('hex'),
    ]);
    return { trainingLoss, contents: Object.fromEntries(contents) };
  };
  const [dropping, whole] = [await save(true), await save(false)];
  expect(dropping.trainingLoss).not.toBe(whole.trainingLoss);
  expect(Object.keys(whole.contents).filter((name) => name.endsWith('.onnx'))).toHaveLength(1);
  expect(dropping.contents).toEqual(whole.contents);
  printed.mockRestore();
});

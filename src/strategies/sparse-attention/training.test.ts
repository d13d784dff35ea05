/** `sparse_attention` in training, against the same model with the layout written into its graph as a mask. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { fromNumbers, GraphBuilder, saveModel } from '../../graph/index.ts';
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { OnnxModel } from '../../hosts/onnx/onnx-model.ts';
import { Trainer } from '../../trainer/trainer.ts';
import type { BlockLayout } from './block-layout.ts';
import {
  BigBirdSparsityConfig,
  FixedSparsityConfig,
  LocalSlidingWindowSparsityConfig,
  type SparsityConfig,
} from './sparsity-config.ts';

const folder = mkdtempSync(join(tmpdir(), 'sparse-attention-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const printed = vi.spyOn(console, 'log').mockReturnValue();

const [length, heads, width] = [96, 2, 8];
const rows = heads * width;

/** In [−1, 1), the same from run to run. */
function noise(i: number): number {
  const x = Math.imul(i ^ (i >>> 15), 0x2c1b3c6d);
  return (Math.imul(x ^ (x >>> 12), 0x297a2d39) >>> 8) / 2 ** 23 - 1;
}

interface ModelOptions {
  causal?: boolean;
  /** Written into the graph as an additive mask. */
  layout?: BlockLayout;
  /** A position bias that is trained, as T5 has: its attention cannot be fused. */
  trainedBias?: boolean;
  /** Positions that queries attend to; default: all. */
  keys?: number;
  attention?: boolean;
}

/** x [batch, 96, 3] → two layers of attention with a residual → y [batch, 96, 2]. */
async function model(options: ModelOptions = {}): Promise<OnnxModel> {
  const { causal = false, layout, trainedBias = false, keys = length, attention = true } = options;
  const b = new GraphBuilder('attention');
  const x = b.input('x', 'float32', ['batch', length, 3]);
  const parameter = (name: string, shape: number[]) => {
    const count = shape.reduce((a, c) => a * c, 1);
    const phase = [...name].reduce((sum, letter) => sum + letter.charCodeAt(0), 0);
    const values = Array.from({ length: count }, (_, i) => 0.4 * noise(phase * 1000 + i));
    return b.initializer(name, fromNumbers('float32', shape, values));
  };
  const split = (value: string) => {
    const apart = b.op('Reshape', [value, b.constant('int64', [4], [0, -1, heads, width])]);
    return b.op('Transpose', [apart], { perm: [0, 2, 1, 3] });
  };
  const hidden = (i: number, j: number, h: number) =>
    (causal && j > i) ||
    (layout !== undefined && !layout.attends(h, Math.floor(i / 16), Math.floor(j / 16)));
  const masked = causal || layout !== undefined;
  const perHead = layout ? heads : 1;
  const mask = Array.from({ length: perHead * length * length }, (_, at) => {
    const [h, i, j] = [Math.floor(at / length ** 2), Math.floor(at / length) % length, at % length];
    return hidden(i, j, h) ? -1e9 : 0;
  });
  const hiding =
    masked && b.initializer('mask', fromNumbers('float32', [1, perHead, length, length], mask));
  let state = b.op('MatMul', [x, parameter('in', [3, rows])]);
  for (let layer = 0; layer < (attention ? 2 : 0); layer++) {
    const project = (name: string, from: string) =>
      b.op('MatMul', [from, parameter(`${name}${layer}`, [rows, rows])]);
    const memory =
      keys === length
        ? state
        : b.op('Slice', [state, ...[0, keys, 1].map((bound) => b.constant('int64', [1], [bound]))]);
    const q = split(project('q', state));
    const [k, v] = [split(project('k', memory)), split(project('v', memory))];
    const transposed = b.op('Transpose', [k], { perm: [0, 1, 3, 2] });
    const scale = b.constant('float32', [], [1 / Math.sqrt(width)]);
    let scores = b.op('Mul', [b.op('MatMul', [q, transposed]), scale]);
    if (hiding) scores = b.op('Add', [scores, hiding]);
    if (trainedBias)
      scores = b.op('Add', [scores, parameter(`bias${layer}`, [1, heads, length, length])]);
    const weights = b.op('Softmax', [scores], { axis: -1 }, { name: `softmax.${layer}` });
    const context = b.op('Transpose', [b.op('MatMul', [weights, v])], { perm: [0, 2, 1, 3] });
    const merged = b.op('Reshape', [context, b.constant('int64', [3], [0, -1, rows])]);
    state = b.op('Add', [state, project('o', merged)]);
  }
  b.output(b.op('MatMul', [state, parameter('out', [rows, 2])], {}, { output: 'y' }), 'float32', [
    'batch',
    length,
    2,
  ]);
  const path = join(folder, `${Math.random()}.onnx`);
  const file = { irVersion: 10, producerName: 'test', opsets: new Map([['', 21]]) };
  await saveModel({ ...file, graph: b.build(), metadata: new Map<string, string>() }, path);
  return OnnxModel.fromFile(path, {
    loss: { type: 'meanSquaredError', prediction: 'y', targets: 'target' },
    trainable: (name) => /^(in|out|[qkvo]\d|bias\d)$/.test(name),
  });
}

const row = (index: number) => ({
  x: Array.from({ length: length * 3 }, (_, i) => 2 * noise(7919 * index + i)),
  target: Array.from({ length: length * 2 }, (_, i) => Math.cos(index + 0.3 * i)),
});

interface Run {
  losses: number[];
  evaluation: number;
  parameters: Map<string, Float32Array>;
  report: string[];
}

async function train(trained: OnnxModel, section?: object, steps = 2): Promise<Run> {
  printed.mockClear();
  const trainer = new Trainer({
    model: trained,
    trainDataset: { length: 8, get: row },
    evalDataset: { length: 2, get: (index) => row(20 + index) },
    args: {
      outputDir: folder,
      deepspeed: {
        optimizer: { type: 'SGD', params: { lr: 0.01 } },
        gradient_clipping: 0,
        ...(section && { sparse_attention: section }),
      },
      maxSteps: steps,
      perDeviceTrainBatchSize: 2,
      lrSchedulerType: 'constant',
      loggingSteps: 1,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
    },
    runtime: { threads: 1 },
  });
  try {
    await trainer.train();
    const { eval_loss: evaluation } = await trainer.evaluate();
    const parameters = new Map<string, Float32Array>();
    for (const { name } of trained.parameters)
      parameters.set(name, (await trainer.parameter(name)).slice());
    const losses = trainer.state.logHistory.flatMap(({ loss }) =>
      loss === undefined ? [] : [loss],
    );
    const report = printed.mock.calls
      .map(([line]) => String(line))
      .filter((line) => line.startsWith('sparse_attention'));
    return { losses, evaluation, parameters, report };
  } finally {
    await trainer.close();
  }
}

/** Both trainings differ by the rounding of sums of 96 terms in another order, and grow apart in two steps. */
function expectEqual(a: Run, b: Run): void {
  for (const [step, loss] of a.losses.entries()) expect(loss).toBeCloseTo(b.losses[step]!, 5);
  expect(a.evaluation).toBeCloseTo(b.evaluation, 5);
  for (const [name, values] of a.parameters) {
    const other = b.parameters.get(name)!;
    const largest = Math.max(...values.map((value, i) => Math.abs(value - other[i]!)));
    expect(largest, name).toBeLessThan(2e-5);
  }
}

const layouts: [name: string, section: object, config: SparsityConfig][] = [
  ['fixed', {}, new FixedSparsityConfig({ num_heads: heads })],
  [
    'fixed per head',
    { num_local_blocks: 2, different_layout_per_head: true, num_different_global_patterns: 2 },
    new FixedSparsityConfig({
      num_heads: heads,
      num_local_blocks: 2,
      different_layout_per_head: true,
      num_different_global_patterns: 2,
    }),
  ],
  [
    'bigbird',
    { mode: 'bigbird', num_random_blocks: 1, different_layout_per_head: true, seed: 3 },
    new BigBirdSparsityConfig({
      num_heads: heads,
      num_random_blocks: 1,
      different_layout_per_head: true,
      seed: 3,
    }),
  ],
  ['local', { mode: 'local' }, new LocalSlidingWindowSparsityConfig({ num_heads: heads })],
];

describe.each([false, true])('causal: %s', (causal) => {
  it.each(layouts)('%s trains as dense attention with a mask', async (_, section, config) => {
    const layout = config.makeLayout(length);
    const sparse = await train(await model({ causal }), section);
    expectEqual(sparse, await train(await model({ causal, layout })));
    // Not just anything is equal: the layout matters.
    const dense = await train(await model({ causal }));
    expect(Math.abs(dense.losses[1]! - sparse.losses[1]!)).toBeGreaterThan(1e-4);
    const share = (100 * layout.count({ causal })) / (heads * (causal ? 21 : 36));
    expect(sparse.report).toEqual([
      `sparse_attention: ${'mode' in section ? section.mode : 'fixed'}, block 16, in 2 of 2 attentions of 2 heads over 96 positions: ${share.toFixed(1)}% of the${causal ? ' causal' : ''} blocks`,
    ]);
  });

  it('"dense" is the model as it is', async () => {
    expectEqual(
      await train(await model({ causal }), { mode: 'dense' }),
      await train(await model({ causal })),
    );
  });
});

describe('attention that cannot be replaced', () => {
  const refusal = async (options: ModelOptions, section: object = {}) => {
    try {
      await train(await model(options), section, 1);
    } catch (error) {
      return error as { code: string; message: string };
    }
    throw new Error('nothing was refused');
  };

  it('stops the run, each with its name and reason', async () => {
    const { code, message } = await refusal({ trainedBias: true });
    expect(code).toBe('ATTENTION_NOT_REPLACED');
    expect(message).toContain('2 of 2 attentions');
    expect(message).toMatch(/softmax\.0: .*bias needs a gradient/);
    expect(message).toMatch(/softmax\.1: /);
  });

  it('attention to another sequence is no self-attention', async () => {
    const { code, message } = await refusal({ keys: 80 });
    expect(code).toBe('ATTENTION_NOT_REPLACED');
    expect(message).toContain('96 queries attend to 80 keys');
  });

  it('stays dense where strict is false, and is named', async () => {
    const run = await train(await model({ trainedBias: true }), { strict: false });
    expect(run.report).toHaveLength(2);
    expect(run.report[0]).toMatch(/stays dense: softmax\.0: .*bias needs a gradient/);
    expectEqual(run, await train(await model({ trainedBias: true })));
  });

  it('is an error in a model without attention', async () => {
    expect(await refusal({ attention: false }, { strict: false })).toMatchObject({
      code: 'ATTENTION_NOT_REPLACED',
      message: expect.stringContaining('no attention'),
    });
  });
});

it('a sequence that the layout cannot take stops the run, with the key to change', async () => {
  for (const [section, key] of [
    [{ block: 64 }, 'block'],
    [{ mode: 'bigbird', num_sliding_window_blocks: 7 }, 'num_sliding_window_blocks'],
    [{ mode: 'bslongformer', global_block_indices: [6] }, 'global_block_indices'],
  ] as const)
    await expect(train(await model(), section)).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      message: expect.stringContaining(`sparse_attention.${key}:`),
    });
});

describe('a language model', () => {
  const gpt2 = (dropped: number) => ({
    ...{ model_type: 'gpt2', vocab_size: 31, n_positions: 64, n_embd: 8, n_layer: 1, n_head: 2 },
    ...{ attn_pdrop: dropped, resid_pdrop: 0, embd_pdrop: 0 },
  });
  const llama = {
    ...{ model_type: 'llama', vocab_size: 31, hidden_size: 16, intermediate_size: 16 },
    ...{ num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
    max_position_embeddings: 64,
  };
  const tokens = (length: number, index = 0) => ({
    input_ids: Array.from({ length }, (_, i) => (7 * i + index) % 31),
  });
  const trainerOf = (
    length: number,
    section?: object,
    dropped = 0,
    config: object = gpt2(dropped),
    args: object = {},
  ) =>
    new Trainer({
      model: AutoModelForCausalLM.fromConfig(config as Record<string, unknown>),
      ...(length > 0 && {
        trainDataset: { length: 4, get: (index: number) => tokens(length, index) },
      }),
      args: {
        outputDir: folder,
        deepspeed: { ...(section && { sparse_attention: section }) },
        maxSteps: 2,
        loggingSteps: 1,
        perDeviceTrainBatchSize: 2,
        saveStrategy: 'no',
        reportTo: [],
        disableTqdm: true,
        ...args,
      },
      runtime: { threads: 1 },
    });

  it.each([
    ['gpt2', gpt2(0), 'in 1 of 1 attentions of 2 heads'],
    ['llama', llama, 'in 2 of 2 attentions of 4 heads'],
  ])('of this project, %s, has its attention replaced', async (_, config, words) => {
    printed.mockClear();
    const trainer = trainerOf(64, { mode: 'local' }, 0, config);
    await trainer.train();
    await trainer.close();
    // Two of the four blocks of each row, one in the first: 7 of the 10 that a causal model has.
    const report = `sparse_attention: local, block 16, ${words} over 64 positions: 70.0% of the causal blocks`;
    expect(printed.mock.calls.map(([line]) => line)).toContain(report);
  });

  it('has its batches padded to the block', async () => {
    printed.mockClear();
    const trainer = trainerOf(35, { mode: 'fixed' });
    await trainer.train();
    await trainer.close();
    expect(printed.mock.calls.map(([line]) => line)).toContain(
      'sparse_attention: fixed, block 16, in 1 of 1 attentions of 2 heads over 48 positions, the first of 64: 100.0% of the causal blocks',
    );
  });

  it('has the lengths of samples told apart from what the wrong padding makes of them', async () => {
    const wrong = trainerOf(35, { mode: 'fixed' }, 0, gpt2(0), { padToMultipleOf: 8 });
    await expect(wrong.train()).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      message: expect.stringContaining('up to 35 positions, padded to 40'),
    });
  });

  // Within one block a causal layout hides nothing, so both say the same.
  it('takes batches and prompts shorter than the window', async () => {
    const results = [];
    for (const section of [{ mode: 'bigbird', num_random_blocks: 2 }, undefined]) {
      const trainer = trainerOf(64, section, 0, gpt2(0), { learningRate: 0 });
      await trainer.train();
      const { eval_loss } = await trainer.evaluate([tokens(10)]);
      const written = await trainer.generate([3, 1, 4], { maxNewTokens: 5 });
      await trainer.close();
      results.push({ loss: eval_loss.toFixed(6), written });
    }
    expect(results[0]).toEqual(results[1]);
    expect(results[0]!.written).toHaveLength(8);
  });

  it.each([
    { num_local_blocks: 3, horizontal_global_attention: true },
    { mode: 'bigbird', num_random_blocks: 1, num_sliding_window_blocks: 1 },
  ])('evaluates a sample as it does beside a longer one: %j', async (section) => {
    const trainer = trainerOf(0, section, 0, { ...gpt2(0), n_positions: 128 });
    const [short, long] = [tokens(70), tokens(128, 1)];
    const lossOf = async (...samples: (typeof short)[]) =>
      (await trainer.evaluate(samples)).eval_loss!;
    // Means over 69 and 127 targets.
    const apart = (69 * (await lossOf(short)) + 127 * (await lossOf(long))) / 196;
    expect(await lossOf(short, long)).toBeCloseTo(apart, 6);
    await trainer.close();
  });

  it('writes text under a layout without having seen a dataset', async () => {
    const trainer = trainerOf(0, { mode: 'bigbird' });
    expect(await trainer.generate([3, 1, 4], { maxNewTokens: 2 })).toHaveLength(5);
    await trainer.close();
  });

  it('drops the probabilities that it would drop without a layout', async () => {
    const lossOf = async (section: object | undefined, dropped: number) => {
      const trainer = trainerOf(64, section, dropped);
      const { trainingLoss } = await trainer.train();
      await trainer.close();
      return trainingLoss;
    };
    const dropping = await lossOf({ mode: 'dense' }, 0.5);
    expect(dropping).toBeCloseTo(await lossOf(undefined, 0.5), 6);
    expect(Math.abs(dropping - (await lossOf({ mode: 'dense' }, 0)))).toBeGreaterThan(1e-6);
    expect(Math.abs(dropping - (await lossOf({ mode: 'local' }, 0.5)))).toBeGreaterThan(1e-6);
  });
});

it('a saved model attends to everything, and a warning says so', async () => {
  const warned = vi.spyOn(process, 'emitWarning').mockReturnValue();
  const save = async (section?: object) => {
    const trainer = new Trainer({
      model: await model(),
      trainDataset: { length: 2, get: row },
      args: {
        outputDir: folder,
        deepspeed: { ...(section && { sparse_attention: section }) },
        perDeviceTrainBatchSize: 2,
        reportTo: [],
        disableTqdm: true,
      },
      runtime: { threads: 1 },
    });
    const target = join(folder, `saved-${section !== undefined}`);
    await trainer.saveModel(target);
    await trainer.close();
    return readFileSync(join(target, 'model.onnx'));
  };
  const dense = await save();
  expect(warned).not.toHaveBeenCalled();
  expect((await save({})).equals(dense)).toBe(true);
  expect(warned.mock.calls).toEqual([
    [
      expect.stringMatching(/attends to everything/),
      expect.objectContaining({ code: 'DEEPSPEED_JS_DENSE_EXPORT' }),
    ],
  ]);
  warned.mockRestore();
});

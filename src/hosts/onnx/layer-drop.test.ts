/** Layers left out or scaled by a plan, against the same arithmetic written into the graph. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { fromNumbers, GraphBuilder, saveModel } from '../../graph/index.ts';
import type { SegmentEvent } from '../../hooks/index.ts';
import { applyDeepSpeed } from '../../strategies/deepspeed.ts';
import type { StrategyContext } from '../../strategies/plugin.ts';
import { Trainer } from '../../trainer/trainer.ts';
import { AutoModelForCausalLM } from './causal-lm.ts';
import { OnnxModel } from './onnx-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'layer-drop-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// The summaries of these runs would bury what the tests say.
vi.spyOn(console, 'log').mockReturnValue();

const width = 6;
const layers = 3;

/** Weights that repeat from run to run. */
function weights(name: string, shape: number[]): ReturnType<typeof fromNumbers> {
  const count = shape.reduce((a, b) => a * b, 1);
  const phase = [...name].reduce((sum, character) => sum + character.charCodeAt(0), 0);
  return fromNumbers(
    'float32',
    shape,
    Array.from({ length: count }, (_, i) => 0.4 * Math.sin(phase + 1.7 * i)),
  );
}

/**
 * x·W → three layers → squared error. A layer is h + Tanh(h·W + b), or without the Tanh, where everything
 * is linear; `scales` writes h + s·(layer(h) − h) into the graph.
 */
async function model(linear: boolean, scales?: readonly number[]): Promise<OnnxModel> {
  const b = new GraphBuilder('stack');
  const x = b.input('x', 'float32', ['batch', 3]);
  const parameter = (name: string, shape: number[]) => b.initializer(name, weights(name, shape));
  let h = b.op('MatMul', [x, parameter('in', [3, width])]);
  for (let layer = 0; layer < layers; layer++) {
    const product = b.op('MatMul', [h, parameter(`w${layer}`, [width, width])]);
    const inner = b.op('Add', [product, parameter(`b${layer}`, [width])]);
    const output = b.op('Add', [h, linear ? inner : b.op('Tanh', [inner])]);
    const s = scales?.[layer] ?? 1;
    h =
      s === 1
        ? output
        : b.op('Add', [h, b.op('Mul', [b.op('Sub', [output, h]), b.constant('float32', [], [s])])]);
  }
  const y = b.op('MatMul', [h, parameter('out', [width, 2])], {}, { output: 'y' });
  b.output(y, 'float32', ['batch', 2]);
  const path = join(folder, `${Math.random()}.onnx`);
  const file = { irVersion: 10, producerName: 'test', opsets: new Map([['', 21]]) };
  await saveModel({ ...file, graph: b.build(), metadata: new Map<string, string>() }, path);
  return OnnxModel.fromFile(path, {
    loss: { type: 'meanSquaredError', prediction: 'y', targets: 'target' },
  });
}

const row = (index: number) => ({
  x: [0, 1, 2].map((i) => Math.sin(3 * index + i)),
  target: [0, 1].map((i) => Math.cos(5 * index + i)),
});

interface Run {
  loss: number;
  parameters: Map<string, Float32Array>;
  skippable: readonly number[];
  /** Name and segment of every hook `forward` and `backward`. */
  events: string[];
  /** The same of `acquire` and `release`, of backward alone. */
  frames: string[];
  evaluation: number;
}

/**
 * One plain SGD step of two micro batches; the plan scales the layers where `scales` is given.
 *
 * @param target of all rows; default: each has its own
 * @param checkpoints segments of an activation checkpoint
 */
async function train(
  trained: OnnxModel,
  scales?: readonly number[],
  { target, checkpoints }: { target?: number; checkpoints?: number } = {},
): Promise<Run> {
  const events: string[] = [];
  const frames: string[] = [];
  let skippable: readonly number[] = [];
  const plugin = {
    name: 'scaled',
    apply(context: StrategyContext) {
      skippable = context.host.skippable ?? [];
      applyDeepSpeed(context);
      context.lifecycle.tap('planStep', 'plan', 'test.scale', (plan) => {
        if (!plan.training || !scales) return plan;
        const residualScales = new Map(skippable.map((segment, i) => [segment, scales[i]!]));
        return { ...plan, residualScales };
      });
      for (const hook of ['forward', 'backward'] as const)
        context.lifecycle.tap(hook, 'observe', `test.${hook}`, ({ plan, segment }) => {
          if (plan.training) events.push(`${hook} ${segment}`);
        });
      for (const hook of ['acquire', 'release'] as const)
        context.lifecycle.tap(
          hook,
          'observe',
          `test.${hook}`,
          ({ pass, segment }: SegmentEvent) => {
            if (pass === 'backward') frames.push(`${hook} ${segment}`);
          },
        );
    },
  };
  const trainer = new Trainer({
    model: trained,
    trainDataset: {
      length: 8,
      get: (index) => ({ ...row(index), ...(target && { target: [target, target] }) }),
    },
    evalDataset: { length: 4, get: (index) => row(50 + index) },
    args: {
      outputDir: folder,
      strategy: plugin,
      // theta 1 drops nothing by itself, and lays the gradients out for layers that may be dropped.
      deepspeed: {
        optimizer: { type: 'SGD', params: { lr: 0.1 } },
        gradient_clipping: 0,
        progressive_layer_drop: { enabled: scales !== undefined, theta: 1, gamma: 0 },
      },
      maxSteps: 1,
      perDeviceTrainBatchSize: 4,
      gradientAccumulationSteps: 2,
      ...(checkpoints && { gradientCheckpointing: checkpoints }),
      lrSchedulerType: 'constant',
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
    },
    runtime: { threads: 1 },
  });
  try {
    const { eval_loss: before } = await trainer.evaluate();
    const { trainingLoss } = await trainer.train();
    const parameters = new Map<string, Float32Array>();
    for (const { name } of trained.parameters)
      parameters.set(name, (await trainer.parameter(name)).slice());
    return { loss: trainingLoss, parameters, skippable, events, frames, evaluation: before };
  } finally {
    await trainer.close();
  }
}

/** Largest difference of any parameter's element. */
function distance(a: Run, b: Run): number {
  return Math.max(
    ...[...a.parameters].map(([name, values]) =>
      Math.max(...values.map((value, i) => Math.abs(value - b.parameters.get(name)![i]!))),
    ),
  );
}

describe('a plan that scales layers', () => {
  it.each([[[1, 1.25, 2]], [[0, 1, 1]], [[1, 0, 1.5]], [[0.5, 0, 0]], [[0, 0, 0]]])(
    'by %j trains as the graph that says so',
    async (scales) => {
      const byPlan = await train(await model(false), scales);
      expect(byPlan.skippable).toEqual([1, 2, 3]);
      const byGraph = await train(await model(false, scales));
      // fp32 sums of some ten terms of size one.
      expect(Math.abs(byPlan.loss - byGraph.loss)).toBeLessThan(1e-6);
      expect(distance(byPlan, byGraph)).toBeLessThan(1e-6);
    },
  );

  it('runs no hook of a dropped layer, and the others as ever', async () => {
    const { events } = await train(await model(false), [1, 0, 2]);
    const once = [
      ...[0, 1, 3, 4].map((segment) => `forward ${segment}`),
      ...[4, 3, 1, 0].map((segment) => `backward ${segment}`),
    ];
    expect(events).toEqual([...once, ...once]);
  });

  // Segments 0 to 4 are the embedding, three layers and the head; 0 and 1, 2 and 3 are a checkpoint each.
  it.each([
    [[1, 0, 0], [] as number[]],
    [[1, 1.5, 0], [3]],
    [[1, 0, 1.5], []],
    [
      [0, 1.5, 0],
      [3, 1],
    ],
  ])(
    'by %j acquires a dropped layer where others of its activation checkpoint run again: %j',
    async (scales, again) => {
      const { events, frames } = await train(await model(false), scales, { checkpoints: 2 });
      const acquired = [4, 3, 2, 1, 0].filter(
        (segment) => events.includes(`backward ${segment}`) || again.includes(segment),
      );
      const expected = acquired.flatMap((segment) => [`acquire ${segment}`, `release ${segment}`]);
      expect(frames).toEqual([...expected, ...expected]);
      for (const segment of again) expect(events).not.toContain(`backward ${segment}`);
    },
  );

  it('leaves evaluation whole', async () => {
    const [plain, dropped] = [
      await train(await model(false)),
      await train(await model(false), [0, 0, 0]),
    ];
    expect(dropped.evaluation).toBe(plain.evaluation);
  });

  // With linear layers the prediction is affine in every scale, so the mean over all draws, each with its
  // probability, is the prediction of the whole model.
  it('is unbiased: the mean output over all draws is the output of the whole model', async () => {
    const keep = [1, 0.75, 0.5];
    const trained = await model(true);
    // ((y + 1)² − (y − 1)²) = 4y, averaged over rows: affine in y.
    const prediction = async (scales?: readonly number[]) =>
      (await train(trained, scales, { target: -1 })).loss -
      (await train(trained, scales, { target: 1 })).loss;
    let mean = 0;
    for (let mask = 0; mask < 8; mask++) {
      const kept = keep.map((_, layer) => (mask >> layer) & 1);
      const probability = keep.reduce((p, q, i) => p * (kept[i] ? q : 1 - q), 1);
      if (probability === 0) continue;
      const scales = keep.map((q, i) => (kept[i] ? 1 / q : 0));
      mean += probability * (await prediction(scales));
    }
    expect(mean).toBeCloseTo(await prediction(), 4);
  });
});

describe('which segments can be left out', () => {
  async function skippableOf(trained: ConstructorParameters<typeof Trainer>[0]['model']) {
    let skippable: readonly number[] | undefined;
    const trainer = new Trainer({
      model: trained,
      trainDataset: { length: 4, get: () => ({ input_ids: [1, 2, 3, 4] }) },
      args: {
        outputDir: folder,
        strategy: {
          name: 'look',
          apply(context: StrategyContext) {
            skippable = context.host.skippable;
            applyDeepSpeed(context);
          },
        },
        maxSteps: 1,
        perDeviceTrainBatchSize: 2,
        saveStrategy: 'no',
        reportTo: [],
        disableTqdm: true,
      },
      runtime: { threads: 1 },
    });
    try {
      await trainer.train();
      return skippable;
    } finally {
      await trainer.close();
    }
  }

  const small = { vocab_size: 31, n_positions: 8, n_embd: 8, n_layer: 3, n_head: 2 };

  it('are the layers, whatever the model is and whatever is trained of it', async () => {
    const gpt2 = () => AutoModelForCausalLM.fromConfig({ model_type: 'gpt2', ...small });
    const llama = AutoModelForCausalLM.fromConfig({
      model_type: 'llama',
      vocab_size: 31,
      hidden_size: 8,
      intermediate_size: 16,
      num_hidden_layers: 3,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      max_position_embeddings: 8,
    });
    expect(await skippableOf(gpt2())).toEqual([1, 2, 3]);
    expect(await skippableOf(llama)).toEqual([1, 2, 3]);
    const frozen = gpt2().freeze((name) => !name.includes('.h.2.'));
    expect(await skippableOf(frozen)).toEqual([1, 2, 3]);
  });
});

/** A user's own model.onnx: gradients against PyTorch's, any number of ranks, and the file it becomes. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fromNumbers, GraphBuilder, loadModel, saveModel, toNumbers } from '../src/graph/index.ts';
import { randomNumbers } from '../src/graph/testing.ts';
import { runRanks } from '../src/trainer/testing/run-ranks.ts';
import type { OnnxModelOptions, TensorSample } from '../src/transformers.ts';
import { type Result, type Task, trainOwnModel } from './fixtures/own-onnx/train.ts';

const goldens = fileURLToPath(new URL('../goldens/onnx/', import.meta.url));
interface Golden {
  loss: number;
  gradients: Record<string, number[]>;
}
const golden: {
  gpt2: Golden & { ids: number[][]; mask: number[][]; labels: number[][] };
  classifier: Golden & { x: number[][]; label: number[] };
} = JSON.parse(readFileSync(join(goldens, 'own-training.json'), 'utf8'));

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'own-onnx-'));
  await saveModel(perceptron(false), join(folder, 'regression.onnx'));
  await saveModel(perceptron(true), join(folder, 'by-row.onnx'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** x [batch, 3] → tanh layer → y [batch, 2]; with its own loss by row, Σ (y − target)². */
function perceptron(withLoss: boolean) {
  const b = new GraphBuilder('perceptron');
  const weight = (name: string, dims: number[], seed: number) =>
    b.initializer(
      name,
      fromNumbers('float32', dims, randomNumbers(dims[0]! * (dims[1] ?? 1), seed)),
    );
  const x = b.input('x', 'float32', ['batch', 3]);
  const hidden = b.op('Tanh', [
    b.op('Add', [b.op('MatMul', [x, weight('w1', [3, 4], 1)]), weight('b1', [4], 2)]),
  ]);
  const y = b.op(
    'Add',
    [b.op('MatMul', [hidden, weight('w2', [4, 2], 3)]), weight('b2', [2], 4)],
    {},
    { output: 'y' },
  );
  b.output(y, 'float32', ['batch', 2]);
  if (withLoss) {
    const error = b.op('Sub', [y, b.input('target', 'float32', ['batch', 2])]);
    const axes = b.constant('int64', [1], [1]);
    const squares = b.op('Mul', [error, error]);
    const loss = b.op('ReduceSum', [squares, axes], { keepdims: 0 }, { output: 'loss' });
    b.output(loss, 'float32', ['batch']);
  }
  return {
    irVersion: 10,
    producerName: 'test',
    opsets: new Map([['', 21]]),
    graph: b.build(),
    metadata: new Map<string, string>(),
  };
}

function samplesOf(count: number): TensorSample[] {
  return Array.from({ length: count }, (_, i) => {
    const x = randomNumbers(3, i + 10);
    const target = [x[0]! - x[1]!, x[2]! * x[0]!];
    return { x, target, targets: target };
  });
}

const fixture = new URL('fixtures/own-onnx/train.ts', import.meta.url);
const trainRanks = (task: Task, worldSize: number) =>
  runRanks<Task, Result>(fixture, worldSize, task);

/** ‖a − b‖ / ‖b‖ */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < expected.length; i += 1) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** Gradients of the first step: what one step of plain descent at this rate changed. */
const rate = 1024;

async function firstStep(file: string, options: OnnxModelOptions, samples: TensorSample[]) {
  const path = join(goldens, file);
  const result = await trainOwnModel({
    path,
    options,
    samples,
    outputDir: folder,
    microBatch: samples.length,
    microBatches: 1,
    steps: 1,
    learningRate: rate,
  });
  const { graph } = await loadModel(path);
  const gradients = new Map(
    [...result.parameters].map(([name, values]) => {
      const before = toNumbers(graph.initializers.get(name)!);
      return [name, before.map((value, i) => (value - values[i]!) / rate)];
    }),
  );
  return { loss: result.losses[0]!, gradients };
}

function transposed(values: readonly number[], rows: number): number[] {
  const columns = values.length / rows;
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!);
}

describe('exported by torch.onnx', () => {
  it('GPT-2 of the new exporter: loss and gradients are those of PyTorch', async () => {
    const { ids, mask, labels, loss, gradients } = golden.gpt2;
    const lengths = mask.map((row) => row.filter((shown) => shown === 1).length);
    const samples = ids.map((row, i) => ({
      input_ids: row.slice(0, lengths[i]),
      attention_mask: mask[i]!.slice(0, lengths[i]),
      labels: labels[i]!.slice(0, lengths[i]),
    }));
    const padded = { padValue: 0 };
    const own = await firstStep(
      'own-gpt2.onnx',
      {
        loss: { type: 'crossEntropy', shift: true },
        inputs: { input_ids: padded, attention_mask: padded },
      },
      samples,
    );
    expect(Math.abs(own.loss - loss)).toBeLessThan(1e-5 * loss);
    for (const [name, values] of Object.entries(gradients)) {
      // The exporter folded the head's transposition into its weight.
      const head = name === 'lm_head.weight';
      const gradient = own.gradients.get(head ? 'val_242' : `model.${name}`)!;
      const expected = head ? transposed(values, 11) : values;
      expect({ name, close: relativeError(gradient, expected) < 1e-4 }).toEqual({
        name,
        close: true,
      });
    }
    expect(own.gradients.size).toBe(Object.keys(gradients).length);
  });

  it('a classifier of the old exporter with its own mean loss', async () => {
    const { x, label, loss, gradients } = golden.classifier;
    const samples = x.map((row, i) => ({ x: row, label: label[i]! }));
    const own = await firstStep('own-classifier.onnx', {}, samples);
    expect(Math.abs(own.loss - loss)).toBeLessThan(1e-5 * loss);
    expect([...own.gradients.keys()].sort()).toEqual(Object.keys(gradients).sort());
    for (const [name, values] of Object.entries(gradients)) {
      expect(relativeError(own.gradients.get(name)!, values), name).toBeLessThan(1e-4);
    }
  });
});

const classes: TensorSample[] = samplesOf(21).map(({ x }, i) => ({
  x: [...(x as number[]), i / 21],
  label: i % 3,
}));

describe.each<[name: string, file: () => string, options: OnnxModelOptions, data: TensorSample[]]>([
  [
    'a regression with an appended loss',
    () => join(folder, 'regression.onnx'),
    { loss: { type: 'meanSquaredError' } },
    samplesOf(21),
  ],
  ['losses by row', () => join(folder, 'by-row.onnx'), {}, samplesOf(21)],
  ['one loss for a batch', () => join(goldens, 'own-classifier.onnx'), {}, classes],
  [
    'an appended loss over labels',
    () => join(goldens, 'own-classifier.onnx'),
    { loss: { type: 'crossEntropy', labels: 'label' } },
    classes,
  ],
])('%s', (name, file, options, samples) => {
  // Two batches of 8 and one of 5, which leaves a rank with one row, and micro batches without any.
  const task = (): Task => ({
    path: file(),
    options,
    samples,
    outputDir: folder,
    microBatch: 8,
    microBatches: 1,
    steps: 9,
    learningRate: 0.2,
  });

  it('learns, and is the same on two ranks with accumulation', async () => {
    const alone = await trainOwnModel(task());
    const [first, second] = (await trainRanks(
      { ...task(), microBatch: 2, microBatches: 2 },
      2,
    )) as [Result, Result];
    expect(alone.losses.at(-1)).toBeLessThan(alone.losses[0]!);
    expect(second.parameters).toEqual(first.parameters);
    // Sums of 21 rows in another order, carried over 9 steps.
    for (const [parameter, values] of alone.parameters) {
      const error = relativeError(first.parameters.get(parameter)!, values);
      expect(error, parameter).toBeLessThan(1e-5);
    }
    expect(Math.abs(first.evaluation.eval_loss! - alone.evaluation.eval_loss!)).toBeLessThan(1e-5);
    expect(first.evaluation.eval_samples).toBe(21);
    // Each rank predicts its own share.
    expect([...first.predictions.keys(), ...second.predictions.keys()]).toEqual([
      ...alone.predictions.keys(),
    ]);
  });

  it('is saved as a file that gives the trained outputs', async () => {
    const saveTo = join(folder, `saved ${name}`);
    const trained = await trainOwnModel({ ...task(), steps: 3, saveTo });
    const { graph } = await loadModel(join(saveTo, 'model.onnx'));
    for (const [parameter, values] of trained.parameters) {
      expect(toNumbers(graph.initializers.get(parameter)!)).toEqual(Array.from(values));
    }
    const session = await ort.InferenceSession.create(join(saveTo, 'model.onnx'));
    const sample = samples[3]! as Record<string, number[]>;
    const feeds = Object.fromEntries(
      session.inputNames.map((input) => {
        const value = sample[input]!;
        return typeof value === 'number'
          ? [input, new ort.Tensor('int64', BigInt64Array.of(BigInt(value)), [1])]
          : [input, new ort.Tensor('float32', Float32Array.from(value), [1, value.length])];
      }),
    );
    const results = await session.run(feeds);
    for (const [output, { data }] of Object.entries(trained.predictions.get(3)!)) {
      const own = results[output]!.data as Float32Array;
      expect(own.length).toBe(data.length);
      for (const [i, value] of own.entries()) expect(Math.abs(value - data[i]!)).toBeLessThan(1e-5);
    }
    expect(Object.keys(trained.predictions.get(3)!)).not.toHaveLength(0);
  });
});

/** What a user's graph or sample may not be, and what the error says to do. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DeepSpeedError } from '../../errors.ts';
import { type DataType, fromNumbers, GraphBuilder, saveModel } from '../../graph/index.ts';
import { planTraining } from '../../graph/plan.ts';
import { lossSum } from './model.ts';
import { OnnxModel, type OnnxModelOptions } from './onnx-model.ts';
import type { TensorSample } from './sample.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'onnx-model-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** x [rows, 2] · w → whatever `body` makes of it, called y. */
async function saved(
  body: (b: GraphBuilder, y: string, x: string) => string,
  { dtype = 'float32', rows = 'batch', opset = 21 }: Partial<Shape> = {},
): Promise<string> {
  const b = new GraphBuilder('test');
  const x = b.input('x', dtype, [rows, 2]);
  const w = b.initializer('w', fromNumbers(dtype, [2, 3], [1, 2, 3, 4, 5, 6]));
  b.output(body(b, b.op('MatMul', [x, w], {}, { name: 'product' }), x), dtype, [rows, 3]);
  const path = join(folder, `${Math.random()}.onnx`);
  const opsets = new Map([['', opset]]);
  const metadata = new Map<string, string>();
  await saveModel(
    { irVersion: 10, producerName: 'test', opsets, graph: b.build(), metadata },
    path,
  );
  return path;
}

interface Shape {
  dtype: DataType;
  rows: number | string;
  opset: number;
}

const squares: OnnxModelOptions = { loss: { type: 'meanSquaredError' } };
const plain = (_: GraphBuilder, y: string) => y;

async function refusal(action: () => unknown): Promise<DeepSpeedError> {
  try {
    await action();
  } catch (error) {
    expect(error).toBeInstanceOf(DeepSpeedError);
    return error as DeepSpeedError;
  }
  throw new Error('nothing was refused');
}

describe('a graph is refused, with what to export instead', () => {
  it.each<[what: string, path: () => Promise<string>, code: string, says: string[]]>([
    [
      'quantised weights',
      () =>
        saved((b, y) => {
          const zero = b.constant('uint8', [], [0]);
          const q = b.op('QuantizeLinear', [y, b.constant('float32', [], [1]), zero]);
          return b.op('DequantizeLinear', [q, b.constant('float32', [], [1]), zero]);
        }),
      'GRAPH_NOT_TRAINABLE',
      ['QuantizeLinear', 'model_quantized.onnx'],
    ],
    [
      'a cache as input',
      () =>
        saved((b, y) =>
          b.op('Add', [y, b.input('past_key_values.0.key', 'float32', ['batch', 3])]),
        ),
      'GRAPH_NOT_TRAINABLE',
      ['past_key_values.0.key', 'not text-generation-with-past'],
    ],
    [
      'control flow',
      async () => fileURLToPath(new URL('../../../goldens/onnx/branch.onnx', import.meta.url)),
      'GRAPH_NOT_TRAINABLE',
      ["node 'if'", 'without control flow'],
    ],
    [
      '16-bit weights',
      () => saved(plain, { dtype: 'float16' }),
      'GRAPH_NOT_TRAINABLE',
      ["'w'", 'float32'],
    ],
    [
      'an old operator set',
      () => saved(plain, { opset: 11 }),
      'NOT_AVAILABLE_YET',
      ['set 11', 'opset_version 17'],
    ],
  ])('%s', async (_, path, code, says) => {
    const file = await path();
    const error = await refusal(() => OnnxModel.fromFile(file, squares));
    expect(error.code).toBe(code);
    for (const text of says) expect(error.render()).toContain(text);
  });

  it('no loss output: the outputs, and how to append one', async () => {
    const path = await saved(plain);
    const error = await refusal(() => OnnxModel.fromFile(path));
    expect(error.code).toBe('ARGUMENTS_INVALID');
    expect(error.render()).toMatch(/no output 'loss'.*it has product/s);
    expect(error.fix).toContain("type: 'crossEntropy'");
  });

  it.each<[what: string, options: object, says: RegExp]>([
    [
      'a key of the loss',
      { loss: { type: 'crossEntropy', label: 'x' } },
      /^label is not an option of loss type "crossEntropy"; did you mean labels\?$/,
    ],
    [
      'a key of another loss',
      { loss: { type: 'meanSquaredError', ignoreIndex: 0 } },
      /^ignoreIndex is not an option of loss type "meanSquaredError"$/,
    ],
    [
      'a snake_case key',
      { loss: { type: 'crossEntropy', ignore_index: 0 } },
      /^ignore_index: write ignoreIndex$/,
    ],
    [
      'the type of the loss',
      { loss: { type: 'crossEntropie' } },
      /loss type "crossEntropie" is none of .*; did you mean "crossEntropy"\?/,
    ],
    ['no type', { loss: { labels: 'x' } }, /loss type undefined is none of output, /],
    ['an option', { trainables: () => true }, /trainables .*OnnxModel; did you mean trainable\?/],
    [
      'an option of an input',
      { ...squares, inputs: { x: { padvalue: 0 } } },
      /padvalue is not an option of input 'x'; did you mean padValue\?/,
    ],
  ])('misspelt: %s', async (_, options, says) => {
    const path = await saved(plain);
    const error = await refusal(() => OnnxModel.fromFile(path, options));
    expect(error.code).toBe('ARGUMENTS_INVALID');
    expect(error.message).toMatch(says);
  });

  it('nothing trainable', async () => {
    const path = await saved(plain);
    const error = await refusal(() =>
      OnnxModel.fromFile(path, { ...squares, trainable: () => false }),
    );
    expect(error.code).toBe('GRAPH_NOT_TRAINABLE');
  });

  it('an operator without a gradient rule: node, operator, way and how to freeze', async () => {
    const path = await saved((b, y) =>
      b.op('Softsign', [b.op('Neg', [y], {}, { name: 'turn' })], {}, { name: 'squash' }),
    );
    const model = await OnnxModel.fromFile(path, squares);
    const batch = model.collate([{ x: [1, 2], targets: [0, 0, 0] }], [0], {
      rows: 1,
      padToMultipleOf: 1,
    });
    const graph = model.graph(batch);
    const error = await refusal(() =>
      planTraining(graph, {
        inputShapes: { x: [1, 2] },
        trainable: (name) => model.isTrainable(name),
        lossOutput: lossSum,
      }),
    );
    expect(error.code).toBe('GRADIENT_MISSING');
    expect(error.message).toContain(
      "operator Softsign of node 'squash' has no gradient rule, and the loss depends on trainable parameters through it: 'w' → MatMul 'product' → Neg 'turn' → Softsign 'squash'",
    );
    expect(error.fix).toContain("Freeze the parameters before it ('w')");
  });
});

describe('a sample is refused by its index', () => {
  const good: TensorSample = { x: [1, 2], targets: [1, 2, 3] };
  it.each<[what: string, bad: TensorSample, says: string]>([
    ['a missing input', { targets: [1, 2, 3] }, "sample 7: has no 'x', which the model takes"],
    ['a missing target', { x: [1, 2] }, "sample 7: has no 'targets'"],
    [
      'another shape',
      { x: [1, 2, 3], targets: [1, 2, 3] },
      "sample 7: 'x' has shape [3], the model takes [2]",
    ],
    ['text', { x: 'no' as never, targets: [1, 2, 3] }, "sample 7: 'x'"],
    [
      'text inside',
      { x: [1, 'no' as never], targets: [1, 2, 3] },
      "sample 7: 'x' is float32 and holds no",
    ],
  ])('%s', async (_, bad, says) => {
    const model = await OnnxModel.fromFile(await saved(plain), squares);
    const error = await refusal(() =>
      model.collate([good, bad], [3, 7], { rows: 2, padToMultipleOf: 1 }),
    );
    expect(error.code).toBe('DATASET_INVALID');
    expect(error.message).toContain(says);
  });

  it('targets that do not fit the output name both shapes', async () => {
    const model = await OnnxModel.fromFile(await saved(plain), squares);
    const batch = model.collate([{ x: [1, 2], targets: [1] }], [0], {
      rows: 1,
      padToMultipleOf: 1,
    });
    const error = await refusal(() => model.graph(batch));
    expect(error.code).toBe('SHAPE_MISMATCH');
    expect(error.message).toContain("'product' [1, 3] needs 'targets' of shape [1, 3]");
  });

  it('a batch axis of fixed size wants that many rows', async () => {
    const model = await OnnxModel.fromFile(await saved(plain, { rows: 4 }), squares);
    const error = await refusal(() => model.collate([good], [0], { rows: 2, padToMultipleOf: 1 }));
    expect(error.message).toContain('exported for batches of 4');
  });
});

describe('which initializers are parameters', () => {
  it('not masks, rotary frequencies and single numbers, unless `trainable` says so', async () => {
    const path = await saved((b, y, x) => {
      const mask = b.initializer(
        'mask',
        fromNumbers('float32', [3], [0, 0, Number.NEGATIVE_INFINITY]),
      );
      const rates = b.initializer(
        'frequencies',
        fromNumbers('float32', [2, 3], [1, 2, 3, 4, 5, 6]),
      );
      const angles = b.op('Cos', [b.op('MatMul', [x, rates])]);
      const scaled = b.op('Mul', [y, b.initializer('scale', fromNumbers('float32', [], [2]))]);
      return b.op('Add', [b.op('Add', [scaled, mask]), angles]);
    });
    const names = async (options: OnnxModelOptions) =>
      (await OnnxModel.fromFile(path, { ...squares, ...options })).parameters.map(
        ({ name }) => name,
      );
    expect(await names({})).toEqual(['w']);
    expect(await names({ trainable: (name) => name === 'frequencies' })).toEqual(['frequencies']);
  });

  it('tensors that the exporter merged because they were equal are trained apart', async () => {
    const path = await saved((b, y) => {
      const first = b.initializer('first', fromNumbers('float32', [3], [1, 1, 1]));
      const second = b.op('Identity', [first], {}, { output: 'second' });
      return b.op('Mul', [b.op('Mul', [y, first]), second]);
    });
    const model = await OnnxModel.fromFile(path, squares);
    expect(model.parameters.map(({ name }) => name)).toEqual(['w', 'first', 'second']);
  });
});

/** The plan of a golden for a sample that the model makes up itself, as it does without a dataset. */
async function planned(file: string, options: OnnxModelOptions) {
  const path = fileURLToPath(new URL(`../../../goldens/onnx/${file}`, import.meta.url));
  const model = await OnnxModel.fromFile(path, options);
  const batch = model.collate(model.example(), [-1], { rows: 2, padToMultipleOf: 1 });
  const graph = model.graph(batch);
  const inputShapes = Object.fromEntries(
    graph.inputs.map(({ name }) => [name, batch.feeds[name]!.dims]),
  );
  const trainable = (name: string) => model.isTrainable(name);
  return { model, plan: planTraining(graph, { inputShapes, trainable, lossOutput: lossSum }) };
}

describe('exported by torch.onnx', () => {
  it.each(['gpt2', 'llama', 'bert'])('%s of opset 17: every parameter is planned', async (name) => {
    const { model, plan } = await planned(`${name}-export.onnx`, squares);
    const names = plan.parameters.map((parameter) => parameter.name);
    expect(names.sort()).toEqual(model.parameters.map((parameter) => parameter.name).sort());
  });

  it('GPT-2 of two layers is cut at its layers', async () => {
    const { plan } = await planned('own-gpt2.onnx', { loss: { type: 'crossEntropy' } });
    const layers = plan.segments.filter(({ name }) => name.startsWith('layer.'));
    expect(layers.length).toBeGreaterThanOrEqual(2);
    expect(new Set(layers.map(({ program }) => program)).size).toBe(1);
  });
});

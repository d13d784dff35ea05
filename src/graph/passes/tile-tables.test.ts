/** Tables in tiles of rows against the same tables whole: losses, scores and gradients of a model. */
import { describe, expect, it } from 'vitest';
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { planModel } from '../../hosts/onnx/outline.ts';
import { GraphBuilder } from '../builder.ts';
import { planTraining } from '../plan.ts';
import type { Tensor } from '../ir.ts';
import { fromNumbers, toNumbers } from '../tensor.ts';
import { type PlanResult, trainOnce } from '../testing/plan-runner.ts';
import { randomTensor, type Values } from '../testing.ts';

const config = (tied: boolean) => ({
  model_type: 'gpt2',
  vocab_size: 23,
  n_positions: 8,
  n_embd: 8,
  n_layer: 2,
  n_head: 2,
  tie_word_embeddings: tied,
});

function plan(tied: boolean, tileAbove?: number, vocabulary = 23) {
  const model = AutoModelForCausalLM.fromConfig({ ...config(tied), vocab_size: vocabulary });
  const rows = [{ input_ids: [1, 22, 7, 8, 3] }, { input_ids: [5, 6, 0] }];
  const batch = model.collate(rows, [0, 1], { rows: 2, padToMultipleOf: 1 });
  return planModel(model, batch, { tileAbove });
}

const tilesOf = (vocabulary: number, above: number) =>
  plan(true, above, vocabulary)
    .tiles.filter(({ of }) => of === 'transformer.wte.weight')
    .map(({ rows }) => rows);

/** An embedding in tiles before a head of its own that is not. */
function embeddingAlone() {
  const b = new GraphBuilder('embedding');
  const tokens = b.input('tokens', 'int64', [5]);
  const labels = b.input('labels', 'int64', [5]);
  const parameter = (name: string) =>
    b.initializer(name, randomTensor({ dtype: 'float32', shape: [11, 3] }, 1));
  const x = b.segment('embed', () => b.op('Tanh', [b.op('Gather', [parameter('table'), tokens])]));
  b.segment('head', () => {
    const rows = b.op('Transpose', [parameter('head')], { perm: [1, 0] });
    const inputs = [b.op('MatMul', [x, rows]), labels];
    b.op('SoftmaxCrossEntropyLoss', inputs, { reduction: 'sum' }, { output: 'loss' });
  });
  b.output('loss', 'float32', []);
  return planTraining(b.build(), {
    inputShapes: {},
    trainable: () => true,
    tileRows: (name) => (name === 'table' ? 5 : null),
  });
}

describe('what is tiled', () => {
  it('an embedding and a head, each tile a segment of its own', () => {
    // 23 rows of 8: at most 56 elements, 7 rows a tile.
    const { segments, tiles, parameters, replaced } = plan(true, 112);
    const wte = 'transformer.wte.weight';
    expect(tiles.map(({ name }) => name)).toEqual([
      `${wte}[0:7]`,
      `${wte}[7:14]`,
      `${wte}[14:21]`,
      `${wte}[21:23]`,
    ]);
    const part = (of: string) => [0, 1, 2, 3].map((index) => `${of}/tile.${index}`);
    expect(segments.map(({ name }) => name)).toEqual([
      ...part('embed'),
      'embed',
      'layer.0',
      'layer.1',
      'head',
      ...part('head'),
      'head/tile.sum',
    ]);
    const tile = parameters.find(({ name }) => name === `${wte}[7:14]`)!;
    expect(tile).toMatchObject({ shape: [7, 8], segments: [1, 9], trainable: true });
    expect(replaced).toContain(`${wte}: 4 tiles of rows`);
  });

  it('into 32 tiles at most, however little may be live', () => {
    for (const above of [0, 60]) {
      // 100 rows: 4 a tile make 25 tiles, 3 would make 34.
      expect(tilesOf(100, above)).toEqual(new Array(25).fill(4));
    }
    expect(tilesOf(23, 0)).toEqual(new Array(23).fill(1));
  });

  it('nothing that fits', () => {
    expect(plan(true, 23 * 8).tiles).toEqual([]);
    expect(plan(true).segments.map(({ name }) => name)).toEqual(
      plan(true, 23 * 8).segments.map(({ name }) => name),
    );
  });

  it('a head that stays whole keeps its loss, whatever is cut beside it', () => {
    const { segments, programs } = embeddingAlone();
    const { forward } = programs.get(segments.at(-1)!.program)!;
    const operators = forward.nodes.map(({ opType }) => opType);
    expect(operators).toContain('SoftmaxCrossEntropy');
    expect(operators).not.toContain('LinearCrossEntropy');
  });

  it('training hands no scores from tile to tile', () => {
    const { segments } = plan(false, 112);
    const sum = segments.at(-1)!;
    const logits = sum.inference.inputs.filter(({ shape }) => shape.length === 3);
    expect(logits).toHaveLength(4);
    expect(sum.forward.inputs.filter(({ shape }) => shape.length === 3)).toEqual([]);
  });
});

describe('labels and tokens', () => {
  const vocabulary = 11;
  const table = randomTensor({ dtype: 'float32', shape: [vocabulary, 3] }, 1);
  const head = randomTensor({ dtype: 'float32', shape: [vocabulary, 3] }, 2);

  /** Tokens to scores of the next ones; the head's 11 rows whole, or 4 at a time, the table's 5 at a time. */
  function planOf(ignoreIndex: number, tiled: boolean) {
    const b = new GraphBuilder('labels');
    const tokens = b.input('tokens', 'int64', [vocabulary]);
    const labels = b.input('labels', 'int64', [vocabulary]);
    const x = b.segment('embed', () => b.op('Gather', [b.initializer('table', table), tokens]));
    b.segment('head', () => {
      const rows = b.op('Transpose', [b.initializer('head', head)], { perm: [1, 0] });
      const attributes = { reduction: 'sum', ignore_index: ignoreIndex };
      const scores = b.op('MatMul', [b.op('Tanh', [x]), rows]);
      b.op('SoftmaxCrossEntropyLoss', [scores, labels], attributes, { output: 'loss' });
    });
    b.output('loss', 'float32', []);
    return planTraining(b.build(), {
      inputShapes: {},
      trainable: () => true,
      lower: 'all',
      ...(tiled && { tileRows: (name) => (name === 'head' ? 4 : 5) }),
    });
  }

  /** The parameters, or their tiles. */
  function valuesOf({ parameters }: ReturnType<typeof planOf>): Values {
    const of = (name: string): Tensor => {
      const [, from, start, end] = /^(\w+)(?:\[(\d+):(\d+)\])?$/.exec(name)!;
      const whole = from === 'head' ? head : table;
      if (start === undefined) return whole;
      const rows = Number(end) - Number(start);
      return fromNumbers('float32', [rows, 3], toNumbers(whole).slice(+start * 3, Number(end) * 3));
    };
    return Object.fromEntries(parameters.map(({ name }) => [name, of(name)]));
  }

  async function played(ignoreIndex: number, tiled: boolean, tokens: number[], labels: number[]) {
    const plan = planOf(ignoreIndex, tiled);
    expect(plan.tiles).toHaveLength(tiled ? 6 : 0);
    const int64 = (values: number[]) => fromNumbers('int64', [vocabulary], values);
    const feeds = { ...valuesOf(plan), tokens: int64(tokens), labels: int64(labels) };
    return trainOnce(plan, feeds);
  }

  const gradient = ({ gradients }: PlanResult, of: string) =>
    [...gradients].flatMap(([name, values]) => (name.startsWith(of) ? toNumbers(values) : []));

  const classes = Array.from({ length: vocabulary }, (_, index) => index);

  // A label that is ignored may be a class, the number of a class within its tile, or that of a tile.
  it.each([0, 1, 3, 4, 10, -1, -100])('ignored: %d, as by whole tables', async (ignored) => {
    const labels = [ignored, ...classes.slice(1)];
    const tokens = classes.map((token) => (token % 2 === 0 ? token : token - vocabulary));
    const whole = await played(ignored, false, tokens, labels);
    const parts = await played(ignored, true, tokens, labels);
    const [want, got] = [whole, parts].map(({ outputs }) => toNumbers(outputs.loss!)[0]!);
    // Sums of at most 11 terms of some units, in another order.
    expect(Math.abs(got! / want! - 1)).toBeLessThan(64 * 2 ** -24);
    for (const name of ['table', 'head']) {
      const slopes = gradient(whole, name);
      expect(gradient(parts, name)).toHaveLength(slopes.length);
      gradient(parts, name).forEach((slope, at) => {
        expect(Math.abs(slope - slopes[at]!)).toBeLessThan(64 * 2 ** -24);
      });
    }
  });

  it.each([vocabulary, 99, -12])('refuses token %d', async (token) => {
    const tokens = [token, ...classes.slice(1)];
    await expect(played(-100, true, tokens, classes)).rejects.toThrow(`idx=${token} `);
  });

  it.each([vocabulary, 99, -12])('refuses label %d', async (label) => {
    const labels = [...classes.slice(1), label];
    await expect(played(-100, true, classes, labels)).rejects.toThrow(/Out of range/);
  });
});

import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../builder.ts';
import type { Graph, Model, Node, Tensor } from '../ir.ts';
import { loadModel } from '../load.ts';
import { planTraining, type PlanOptions } from '../plan.ts';
import { fromNumbers, toNumbers } from '../tensor.ts';
import { upgradeOpset } from '../upgrade.ts';
import { randomNumbers, relativeError, run } from '../testing.ts';
import { trainOnce } from '../testing/plan-runner.ts';
import type { AttentionBlocks, SelfAttention } from './sparse-attention.ts';

const [batch, length] = [2, 32];

const golden = (name: string): Promise<Model> =>
  loadModel(fileURLToPath(new URL(`../../../goldens/onnx/${name}.onnx`, import.meta.url)));

/** Its graph with the loss Σ sin(y): a sum alone has no gradient where a norm comes last. */
function withLoss(model: Model): Graph {
  const graph = upgradeOpset(model);
  const node = (opType: string, input: string, output: string, attributes = {}): Node => ({
    name: output,
    opType,
    domain: '',
    inputs: [input],
    outputs: [output],
    attributes,
  });
  const keepdims = { type: 'int', value: 0 } as const;
  const loss = [node('Sin', 'y', 'sin'), node('ReduceSum', 'sin', 'loss', { keepdims })];
  return {
    ...graph,
    nodes: [...graph.nodes, ...loss],
    outputs: [...graph.outputs, { name: 'loss', dtype: 'float32', shape: [] }],
  };
}

const everything = ({ heads, length: positions }: SelfAttention): AttentionBlocks => {
  const blocks = Math.ceil(positions / 16);
  return { block: 16, heads: Array(heads).fill(new Uint8Array(blocks * blocks).fill(1)) };
};

/** Weights; tables of positions that an exporter has computed have four axes. */
const isWeight = ({ dtype, dims }: Tensor) => dtype === 'float32' && dims.length === 2;

describe('attention of exported models', () => {
  const plan = async (name: string, options: Partial<PlanOptions> = {}) => {
    const graph = withLoss(await golden(name));
    const shape = positionsOf(name);
    const weights = [...graph.initializers].filter(([, tensor]) => isWeight(tensor));
    const trainable = new Set(weights.map(([weight]) => weight));
    const planned = planTraining(graph, {
      inputShapes: { ids: shape, mask: shape },
      trainable: (initializer) => trainable.has(initializer),
      ...options,
    });
    return { planned, weights };
  };
  const found = async (name: string) =>
    (await plan(name, { attentionBlocks: everything })).planned.sparseAttention!;
  // With open axes, and not more than 16 positions.
  const positionsOf = (name: string) => [
    batch,
    /^(gpt2|llama|bert)-export$/.test(name) ? 16 : length,
  ];

  // Written out, as transformers' default, and as the operator of opset 23; both exporters.
  const models = [
    ['gpt2', true, 2],
    ['llama', true, 4],
    ['bert', false, 2],
  ] as const;
  const forms = ['export', 'dynamo', 'sdpa-export', 'sdpa-dynamo', 'attention'];
  const files = models.flatMap(([model, causal, heads]) =>
    forms.map((form) => [`${model}-${form}`, form === 'dynamo' ? 2 : 1, causal, heads] as const),
  );

  it.each(files)('%s: all %i are found', async (name, count, causal, heads) => {
    const { replaced, dense } = await found(name);
    expect(dense).toEqual([]);
    const [, positions] = positionsOf(name);
    expect(replaced).toEqual(Array(count).fill({ heads, length: positions, causal }));
  });

  it.each(files)('%s computes what it did', async (name) => {
    const sizes = positionsOf(name) as [number, number];
    const count = sizes[0] * sizes[1];
    const integers = (value: (i: number) => number) =>
      fromNumbers(
        'int64',
        sizes,
        Array.from({ length: count }, (_, i) => value(i)),
      );
    // The second row ends with padding.
    const inputs = { ids: integers((i) => i % 11), mask: integers((i) => (i > count - 4 ? 0 : 1)) };
    const train = async (options: Partial<PlanOptions>) => {
      const { planned, weights } = await plan(name, { ...options, lower: 'all' });
      return trainOnce(planned, { ...inputs, ...Object.fromEntries(weights) });
    };
    const { graph, opsets } = await golden(name);
    const sparse = await train({ attentionBlocks: everything });
    const terms = toNumbers((await run(graph, inputs, opsets.get(''))).y!).map(Math.sin);
    const [loss] = toNumbers(sparse.outputs.loss!) as [number];
    const largest = terms.reduce((sum, term) => sum + Math.abs(term), 0);
    // Sums of some hundred float32 products in another order, through a layer or two.
    const close = 1e-4;
    expect(Math.abs(loss - terms.reduce((a, b) => a + b))).toBeLessThan(close * largest);
    // Nothing differentiates the operator itself.
    if (name.endsWith('-attention')) return;
    const plain = await train({ fuse: false });
    expect(sparse.gradients.size).toBeGreaterThan(4);
    for (const [weight, gradient] of sparse.gradients) {
      const expected = toNumbers(plain.gradients.get(weight)!);
      expect(relativeError(toNumbers(gradient), expected), weight).toBeLessThan(close);
    }
  });

  it('t5: what is not self-attention, or has a trained bias, is named with the reason', async () => {
    const { replaced, dense } = await found('t5-export');
    expect(replaced).toEqual([]);
    expect(dense).toHaveLength(3);
    expect(dense.filter((line) => /bias needs a gradient/.test(line))).toHaveLength(2);
    expect(dense.filter((line) => /keys come from elsewhere/.test(line))).toHaveLength(1);
  });

  // At a fixed length that exporter computes the bias, which then is no longer trained.
  it('t5 of the other exporter: a bias that is computed stays', async () => {
    const { replaced, dense } = await found('t5-dynamo');
    expect(replaced.map(({ heads, causal }) => ({ heads, causal }))).toEqual(
      Array(2).fill({ heads: 2, causal: false }),
    );
    expect(dense).toHaveLength(1);
    expect(dense[0]).toMatch(/keys come from elsewhere/);
  });
});

// The plain form of blocks, against a mask in the graph: random layouts, by head and shared, with lengths
// that end inside a block, forward and backward in ONNX Runtime.
describe('blocks in plain operators equal a mask', () => {
  const width = 4;
  const heads = 2;

  function model(positions: number, mask?: readonly number[]): Graph {
    const b = new GraphBuilder('test');
    const x = b.input('x', 'float32', [batch, positions, heads * width]);
    const split = (name: string) => {
      const weight = b.initializer(
        name,
        fromNumbers('float32', [8, 8], randomNumbers(64, name.charCodeAt(0))),
      );
      const product = b.op('MatMul', [x, weight]);
      const shape = b.constant('int64', [4], [batch, positions, heads, width]);
      return b.op('Transpose', [b.op('Reshape', [product, shape])], { perm: [0, 2, 1, 3] });
    };
    const [q, k, v] = ['q', 'k', 'v'].map(split) as [string, string, string];
    const transposed = b.op('Transpose', [k], { perm: [0, 1, 3, 2] });
    let scores = b.op('MatMul', [q, transposed]);
    if (mask) {
      const hidden = b.constant('float32', [1, heads, positions, positions], mask);
      scores = b.op('Add', [scores, hidden]);
    }
    const y = b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v]);
    const squared = b.op('Mul', [y, y]);
    b.output(b.op('ReduceSum', [squared], { keepdims: 0 }, { output: 'loss' }), 'float32', []);
    return b.build();
  }

  it.each([
    [32, true, 1],
    [40, false, 2],
    [17, true, 3],
    [48, false, 4],
  ])('%i positions, per head: %s', async (positions, perHead, seed) => {
    const blocks = Math.ceil(positions / 16);
    const random = (head: number) =>
      Uint8Array.from({ length: blocks * blocks }, (_, i) => {
        const onDiagonal = Math.floor(i / blocks) === i % blocks;
        const draw = randomNumbers(heads * blocks * blocks, seed, 0, 1)[
          head * blocks * blocks + i
        ]!;
        return onDiagonal || draw < 0.4 ? 1 : 0;
      });
    const first = random(0);
    const layouts = [first, perHead ? random(1) : first];
    const mask = Array.from({ length: heads * positions ** 2 }, (_, at) => {
      const [h, i, j] = [
        Math.floor(at / positions ** 2),
        Math.floor(at / positions) % positions,
        at % positions,
      ];
      return layouts[h]![Math.floor(i / 16) * blocks + Math.floor(j / 16)] ? 0 : -1e9;
    });
    const feeds = {
      x: fromNumbers('float32', [batch, positions, 8], randomNumbers(batch * positions * 8, 9)),
      ...Object.fromEntries(
        ['q', 'k', 'v'].map((name) => [
          name,
          fromNumbers('float32', [8, 8], randomNumbers(64, name.charCodeAt(0))),
        ]),
      ),
      'grad.loss': fromNumbers('float32', [], [1]),
    };
    const options = {
      inputShapes: {},
      trainable: (name: string) => ['q', 'k', 'v'].includes(name),
      lower: 'all' as const,
    };
    const sparse = await trainOnce(
      planTraining(model(positions), {
        ...options,
        attentionBlocks: () => ({ block: 16, heads: layouts }),
      }),
      feeds,
    );
    const dense = await trainOnce(
      planTraining(model(positions, mask), { ...options, fuse: false }),
      feeds,
    );
    for (const [name, gradient] of sparse.gradients) {
      const expected = toNumbers(dense.gradients.get(name)!);
      const largest = Math.max(...expected.map(Math.abs));
      for (const [i, value] of toNumbers(gradient).entries())
        expect(Math.abs(value - expected[i]!), name).toBeLessThan(1e-4 * largest);
    }
  });
});

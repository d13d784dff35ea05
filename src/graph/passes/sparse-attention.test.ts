import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../builder.ts';
import type { Graph } from '../ir.ts';
import { loadModel } from '../load.ts';
import { planTraining } from '../plan.ts';
import { fromNumbers, toNumbers } from '../tensor.ts';
import { randomNumbers } from '../testing.ts';
import { trainOnce } from '../testing/plan-runner.ts';
import type { AttentionBlocks, SelfAttention } from './sparse-attention.ts';

const [batch, length] = [2, 32];

async function exported(name: string): Promise<Graph> {
  const path = new URL(`../../../goldens/onnx/${name}.onnx`, import.meta.url);
  const { graph } = await loadModel(fileURLToPath(path));
  const sum = {
    name: 'loss',
    opType: 'ReduceSum',
    domain: '',
    inputs: ['y'],
    outputs: ['loss'],
    attributes: { keepdims: { type: 'int', value: 0 } as const },
  };
  return {
    ...graph,
    nodes: [...graph.nodes, sum],
    outputs: [...graph.outputs, { name: 'loss', dtype: 'float32', shape: [] }],
  };
}

const everything = ({ heads, length: positions }: SelfAttention): AttentionBlocks => {
  const blocks = Math.ceil(positions / 16);
  return { block: 16, heads: Array(heads).fill(new Uint8Array(blocks * blocks).fill(1)) };
};

describe('attention of exported models', () => {
  const planned = async (name: string, shape: [number, number] = [batch, length]) => {
    const graph = await exported(name);
    const weights = new Set(
      [...graph.initializers]
        .filter(([, { dtype, dims }]) => dtype === 'float32' && dims.length > 1)
        .map(([initializer]) => initializer),
    );
    const plan = planTraining(graph, {
      inputShapes: { ids: shape, mask: shape },
      trainable: (initializer) => weights.has(initializer),
      attentionBlocks: everything,
    });
    return plan.sparseAttention!;
  };

  it.each([
    ['gpt2-export', 1, true, 2],
    ['llama-export', 1, true, 4],
    ['bert-export', 1, false, 2],
    ['gpt2-dynamo', 2, true, 2],
    ['llama-dynamo', 2, true, 4],
    ['bert-dynamo', 2, false, 2],
  ] as const)('%s: all %i are found', async (name, count, causal, heads) => {
    const positions = name.endsWith('export') ? 16 : length;
    const { replaced, dense } = await planned(name, [batch, positions]);
    expect(dense).toEqual([]);
    expect(replaced).toEqual(Array(count).fill({ heads, length: positions, causal }));
  });

  it('t5: what is not self-attention, or has a trained bias, is named with the reason', async () => {
    const { replaced, dense } = await planned('t5-export');
    expect(replaced).toEqual([]);
    expect(dense).toHaveLength(3);
    expect(dense.filter((line) => /bias needs a gradient/.test(line))).toHaveLength(2);
    expect(dense.filter((line) => /keys come from elsewhere/.test(line))).toHaveLength(1);
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
      lower: true,
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

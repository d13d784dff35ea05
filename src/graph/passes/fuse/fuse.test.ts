/** Each pattern is found, in the forms exporters write, and computes what the original did. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { GraphBuilder } from '../../builder.ts';
import type { Graph, Tensor } from '../../ir.ts';
import { inferTypes } from '../../shapes/infer.ts';
import { toNumbers } from '../../tensor.ts';
import { randomTensor, relativeError, run, type Values } from '../../testing.ts';
import { loadModel } from '../../load.ts';
import { makeConcrete } from '../concrete.ts';
import { lower } from '../lower/index.ts';
import { fuse } from './index.ts';

type Build = (b: GraphBuilder, x: string) => string;

const shape = [2, 3, 8];

function graphOf(build: Build, inputShape: readonly number[] = shape): Graph {
  const b = new GraphBuilder('pattern');
  const x = b.input('x', 'float32', inputShape);
  b.output(build(b, x), 'float32');
  return b.build();
}

const number = (b: GraphBuilder, value: number) => b.constant('float32', [], [value]);
const vector = (b: GraphBuilder, name: string, width: number, seed: number) =>
  b.initializer(name, randomTensor({ dtype: 'float32', shape: [width] }, seed, 0.5, 1.5));
const lastAxis = (b: GraphBuilder) => b.constant('int64', [1], [-1]);

const half = (b: GraphBuilder, x: string, from: number, to: number, axis = -1) =>
  b.op('Slice', [x, ...[from, to, axis].map((v) => b.constant('int64', [1], [v]))]);

function deviation(b: GraphBuilder, x: string): string {
  return b.op('Sub', [x, b.op('ReduceMean', [x, lastAxis(b)])]);
}

function root(b: GraphBuilder, x: string, square: 'Pow' | 'Mul'): string {
  const squared = square === 'Pow' ? b.op('Pow', [x, number(b, 2)]) : b.op('Mul', [x, x]);
  const mean = b.op('ReduceMean', [squared, lastAxis(b)]);
  return b.op('Sqrt', [b.op('Add', [mean, number(b, 1e-3)])]);
}

/** x³ and the argument of tanh. */
function tanhGate(b: GraphBuilder, x: string, cube: string): string {
  const inner = b.op('Add', [x, b.op('Mul', [number(b, 0.044715), cube])]);
  return b.op('Tanh', [b.op('Mul', [inner, number(b, 0.7978845608028654)])]);
}

function table(b: GraphBuilder, name: string, seed: number, dims: number[], twice = false): string {
  const plain = b.initializer(name, randomTensor({ dtype: 'float32', shape: dims }, seed));
  return twice ? b.op('Concat', [plain, plain], { axis: -1 }) : plain;
}

const patterns: [title: string, fused: string, build: Build, inputShape?: readonly number[]][] = [
  [
    'LayerNormalization',
    'deepspeed.LayerNormalization',
    (b, x) =>
      b.op('LayerNormalization', [x, vector(b, 'g', 8, 2), vector(b, 'b', 8, 3)], {
        axis: -1,
        epsilon: 1e-3,
      }),
  ],
  [
    'layer normalisation in single operators',
    'deepspeed.LayerNormalization',
    (b, x) => {
      const d = deviation(b, x);
      const normalised = b.op('Div', [d, root(b, d, 'Pow')]);
      return b.op('Add', [b.op('Mul', [normalised, vector(b, 'g', 8, 2)]), vector(b, 'b', 8, 3)]);
    },
  ],
  [
    'layer normalisation without bias',
    'deepspeed.LayerNormalization',
    (b, x) => {
      const d = deviation(b, x);
      return b.op('Mul', [vector(b, 'g', 8, 2), b.op('Div', [d, root(b, d, 'Mul')])]);
    },
  ],
  [
    'SimplifiedLayerNormalization',
    'deepspeed.RMSNormalization',
    (b, x) => b.op('SimplifiedLayerNormalization', [x, vector(b, 'g', 8, 2)], { epsilon: 1e-3 }),
  ],
  [
    'RMS norm with Div',
    'deepspeed.RMSNormalization',
    (b, x) => b.op('Mul', [b.op('Div', [x, root(b, x, 'Pow')]), vector(b, 'g', 8, 2)]),
  ],
  [
    'RMS norm with a reciprocal',
    'deepspeed.RMSNormalization',
    (b, x) => {
      const inverse = b.op('Reciprocal', [root(b, x, 'Pow')]);
      return b.op('Mul', [vector(b, 'g', 8, 2), b.op('Mul', [x, inverse])]);
    },
  ],
  [
    'RMS norm with 1/√',
    'deepspeed.RMSNormalization',
    (b, x) => {
      const inverse = b.op('Div', [number(b, 1), root(b, x, 'Mul')]);
      return b.op('Mul', [b.op('Mul', [x, inverse]), vector(b, 'g', 8, 2)]);
    },
  ],
  [
    'GELU of the PyTorch exporter',
    'deepspeed.Gelu',
    (b, x) => {
      const gate = b.op('Erf', [b.op('Div', [x, number(b, Math.SQRT2)])]);
      const product = b.op('Mul', [x, b.op('Add', [gate, number(b, 1)])]);
      return b.op('Mul', [product, number(b, 0.5)]);
    },
  ],
  [
    'GELU with the half inside',
    'deepspeed.Gelu',
    (b, x) => {
      const gate = b.op('Erf', [b.op('Mul', [x, number(b, Math.SQRT1_2)])]);
      const cdf = b.op('Mul', [number(b, 0.5), b.op('Add', [number(b, 1), gate])]);
      return b.op('Mul', [x, cdf]);
    },
  ],
  [
    'GELU of a product',
    'deepspeed.Gelu',
    (b, x) => {
      const z = b.op('Mul', [x, vector(b, 'g', 8, 2)]);
      const gate = b.op('Erf', [b.op('Div', [z, number(b, Math.SQRT2)])]);
      return b.op('Mul', [b.op('Mul', [z, number(b, 0.5)]), b.op('Add', [gate, number(b, 1)])]);
    },
  ],
  [
    'tanh GELU with Pow',
    'deepspeed.Gelu',
    (b, x) => {
      const gate = tanhGate(b, x, b.op('Pow', [x, number(b, 3)]));
      return b.op('Mul', [b.op('Mul', [number(b, 0.5), x]), b.op('Add', [number(b, 1), gate])]);
    },
  ],
  [
    'tanh GELU with products',
    'deepspeed.Gelu',
    (b, x) => {
      const gate = tanhGate(b, x, b.op('Mul', [b.op('Mul', [x, x]), x]));
      const product = b.op('Mul', [x, b.op('Add', [gate, number(b, 1)])]);
      return b.op('Mul', [number(b, 0.5), product]);
    },
  ],
  ['Gelu', 'deepspeed.Gelu', (b, x) => b.op('Gelu', [x], { approximate: 'tanh' })],
  [
    'FastGelu with bias',
    'deepspeed.Gelu',
    (b, x) => b.op('FastGelu', [x, vector(b, 'g', 8, 2)], {}, { domain: 'com.microsoft' }),
  ],
  ['SiLU', 'deepspeed.Silu', (b, x) => b.op('Mul', [b.op('Sigmoid', [x]), x])],
  [
    'gated SiLU',
    'deepspeed.SiluMul',
    (b, x) => {
      const up = b.op('Add', [x, vector(b, 'g', 8, 2)]);
      return b.op('Mul', [up, b.op('Mul', [x, b.op('Sigmoid', [x])])]);
    },
  ],
  [
    'rotation of halves',
    'deepspeed.RotaryEmbedding',
    (b, x) => {
      const cos = table(b, 'cos', 2, [3, 4]);
      const sin = table(b, 'sin', 3, [3, 4]);
      const [x1, x2] = b.ops('Split', [x], 2, { axis: -1, num_outputs: 2 }) as [string, string];
      const first = b.op('Sub', [b.op('Mul', [x1, cos]), b.op('Mul', [x2, sin])]);
      const second = b.op('Add', [b.op('Mul', [x2, cos]), b.op('Mul', [x1, sin])]);
      return b.op('Concat', [first, second], { axis: -1 });
    },
    [2, 2, 3, 8],
  ],
  [
    'rotate_half with doubled tables',
    'deepspeed.RotaryEmbedding',
    (b, x) => {
      const cos = b.op('Cos', [table(b, 'angles', 2, [1, 1, 3, 4], true)]);
      const sin = table(b, 'sin', 3, [3, 4], true);
      const turned = b.op('Concat', [b.op('Neg', [half(b, x, 4, 2 ** 31)]), half(b, x, 0, 4)], {
        axis: -1,
      });
      return b.op('Add', [b.op('Mul', [x, cos]), b.op('Mul', [turned, sin])]);
    },
    [2, 2, 3, 8],
  ],
  [
    'transposition with leading axes merged',
    '.Transpose',
    (b, x) => {
      const sizes = (...values: number[]) => b.constant('int64', [values.length], values);
      const flat = b.op('Reshape', [x, sizes(-1, 5, 4)]);
      const turned = b.op('Transpose', [flat], { perm: [0, 2, 1] });
      return b.op('Reshape', [turned, sizes(2, 3, 4, 5)]);
    },
    [2, 3, 5, 4],
  ],
  [
    'product with a transposed operand',
    'com.microsoft.FusedMatMul',
    (b, x) => b.op('MatMul', [x, b.op('Transpose', [x], { perm: [0, 2, 1] })]),
  ],
  ...['none', 'sum', 'mean'].map((reduction): [string, string, Build] => [
    `cross-entropy, ${reduction}`,
    'deepspeed.SoftmaxCrossEntropy',
    (b, x) =>
      b.op('SoftmaxCrossEntropyLoss', [b.op('Transpose', [x], { perm: [0, 2, 1] }), labels(b)], {
        reduction,
        ignore_index: -100,
      }),
  ]),
  [
    'LogSoftmax and NegativeLogLikelihoodLoss',
    'deepspeed.SoftmaxCrossEntropy',
    (b, x) => {
      const scores = b.op('LogSoftmax', [b.op('Transpose', [x], { perm: [0, 2, 1] })], { axis: 1 });
      return b.op('NegativeLogLikelihoodLoss', [scores, labels(b)], { ignore_index: -100 });
    },
  ],
];

function labels(b: GraphBuilder): string {
  return b.constant('int64', [2, 3], [0, 7, -100, 3, 3, 1]);
}

function fused(graph: Graph) {
  return fuse({ graph, types: inferTypes(graph) });
}

for (const [title, operator, build, inputShape] of patterns) {
  test(`${title} → ${operator}`, async () => {
    const graph = graphOf(build, inputShape);
    const result = fused(graph);
    const operators = result.graph.nodes.map((node) => `${node.domain}.${node.opType}`);
    expect(operators).toContain(operator);
    expect(result.replaced.some((line) => line.includes(operator.replace(/^\./, '')))).toBe(true);
    const end = graph.nodes.at(-1)!.name;
    expect(result.graph.nodes.map((node) => node.name)).not.toContain(end);
    const feeds: Values = {
      x: randomTensor({ dtype: 'float32', shape: inputShape ?? shape }, 1),
    };
    const [before] = Object.values(await run(graph, feeds)) as [Tensor];
    const [after] = Object.values(await run(lower(result, { what: 'all' }).graph, feeds)) as [
      Tensor,
    ];
    expect(after.dims).toEqual(before.dims);
    // A dozen float32 roundings of 6e-8 each, and constants that models round to 7 digits.
    expect(relativeError(toNumbers(after), toNumbers(before))).toBeLessThan(3e-6);
  });
}

test.each([
  ['bert', ['Attention (bshd, key mask): 1', 'Gelu: 1', 'LayerNormalization: 3']],
  ['gpt2', ['Attention (packed, causal, key mask): 1', 'Gelu: 1', 'LayerNormalization: 3']],
  [
    'llama',
    [
      'Attention (bshd, grouped heads, causal, key mask, rotary): 1',
      'RMSNormalization: 3',
      'RotaryEmbedding: 2',
      'SiluMul: 1',
    ],
  ],
])('what PyTorch exports of %s is fused', async (name, expected) => {
  const file = new URL(`../../../../goldens/onnx/${name}-export.onnx`, import.meta.url);
  const { graph } = await loadModel(fileURLToPath(file));
  const inputs = { ids: [2, 5], mask: [2, 5] };
  const isWeight = (parameter: string) => graph.initializers.get(parameter)!.dims.length > 0;
  const concrete = makeConcrete(graph, inputs, isWeight);
  const ours = fuse(concrete, concrete.parameters)
    .replaced.filter((line) => line.includes('deepspeed.'))
    .map((line) => line.replace(/^.*deepspeed\./, ''));
  expect(ours.sort()).toEqual(expected);
});

const lookalikes: [title: string, build: Build, inputShape?: readonly number[]][] = [
  [
    'a GELU with another factor',
    (b, x) => {
      const gate = b.op('Erf', [b.op('Div', [x, number(b, 1.5)])]);
      return b.op('Mul', [b.op('Mul', [x, number(b, 0.5)]), b.op('Add', [gate, number(b, 1)])]);
    },
  ],
  [
    'a norm whose divisor squares something else',
    (b, x) => {
      const other = b.op('Add', [x, number(b, 1)]);
      return b.op('Mul', [b.op('Div', [x, root(b, other, 'Pow')]), vector(b, 'g', 8, 2)]);
    },
  ],
  [
    'a norm over another axis',
    (b, x) =>
      b.op(
        'LayerNormalization',
        [x, b.initializer('g', randomTensor({ dtype: 'float32', shape: [3, 8] }, 2))],
        { axis: 1 },
      ),
  ],
  ['a gate of something else', (b, x) => b.op('Mul', [x, b.op('Sigmoid', [b.op('Exp', [x])])])],
  [
    'rotate_half with tables whose halves differ',
    (b, x) => {
      const cos = table(b, 'cos', 2, [3, 8]);
      const sin = table(b, 'sin', 3, [3, 8]);
      const parts = [b.op('Neg', [half(b, x, 4, 8)]), half(b, x, 0, 4)];
      const turned = b.op('Concat', parts, { axis: -1 });
      return b.op('Add', [b.op('Mul', [x, cos]), b.op('Mul', [turned, sin])]);
    },
    [2, 2, 3, 8],
  ],
];

for (const [title, build, inputShape] of lookalikes) {
  test(`not fused: ${title}`, () => {
    expect(fused(graphOf(build, inputShape)).replaced).toEqual([]);
  });
}

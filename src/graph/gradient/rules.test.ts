/** Every gradient rule against central differences of the operator as ONNX Runtime computes it. */
import { describe, expect, test } from 'vitest';
import { attribute, type PlainAttribute } from '../attributes.ts';
import type { DataType, Graph, Tensor, ValueType } from '../ir.ts';
import { lower } from '../passes/lower/index.ts';
import { fromNumbers, toNumbers } from '../tensor.ts';
import { centralDifferences, load, randomTensor, relativeError, type Values } from '../testing.ts';
import { differentiate } from './index.ts';

type Shape = readonly number[];

/** A differentiable input: its shape, and the range of its values unless it is [-1, 1). */
interface Varied {
  shape: Shape;
  low: number;
  high: number;
}
interface Fixed {
  fixed: Tensor;
}

interface Case {
  op: string;
  domain?: string;
  title?: string;
  inputs: readonly (Shape | Varied | Fixed | undefined)[];
  attributes?: Record<string, PlainAttribute>;
  /** Shapes of the outputs; float unless a type is given. */
  outputs: readonly (Shape | ValueType)[];
  /** ONNX Runtime has no float64 kernel. */
  single?: true;
  opset?: number;
}

const int64 = (dims: number[], values: number[]) => ({ fixed: fromNumbers('int64', dims, values) });
const bools = (dims: number[], values: number[]) => ({ fixed: fromNumbers('bool', dims, values) });
const positive = (shape: Shape) => ({ shape, low: 0.3, high: 2 });

const same = (op: string, input: Shape | Varied = [3, 4], extra: Partial<Case> = {}): Case => ({
  op,
  inputs: [input],
  outputs: ['low' in input ? input.shape : input],
  ...extra,
});

const labels = int64([5], [2, 0, -100, 3, 1]);

const cases: Case[] = [
  {
    op: 'Add',
    inputs: [
      [2, 3, 4],
      [3, 1],
    ],
    outputs: [[2, 3, 4]],
  },
  { op: 'Sub', inputs: [[4], [2, 3, 4]], outputs: [[2, 3, 4]] },
  {
    op: 'Mul',
    inputs: [
      [2, 1, 4],
      [3, 1],
    ],
    outputs: [[2, 3, 4]],
  },
  { op: 'Div', inputs: [[3, 4], positive([4])], outputs: [[3, 4]] },
  { op: 'Sum', inputs: [[3, 4], [4], [3, 1]], outputs: [[3, 4]] },
  { op: 'Max', inputs: [[3, 4], [4]], outputs: [[3, 4]] },
  {
    op: 'Min',
    inputs: [
      [3, 4],
      [3, 1],
    ],
    outputs: [[3, 4]],
  },
  { op: 'Pow', title: 'general', inputs: [positive([3, 4]), [4]], outputs: [[3, 4]] },
  ...[1, 2, 3, 0.5, -1.5].map((exponent) => ({
    op: 'Pow',
    title: `to ${exponent}`,
    inputs: [positive([3, 4]), { fixed: fromNumbers('float64', [], [exponent]) }],
    outputs: [[3, 4]],
  })),
  same('Sqrt', positive([3, 4])),
  same('Reciprocal', positive([3, 4])),
  same('Neg'),
  same('Exp'),
  same('Log', positive([3, 4])),
  same('Sin'),
  same('Cos'),
  same('Tanh'),
  same('Erf', [3, 4], { single: true }),
  same('Sigmoid'),
  same('Abs'),
  same('Relu'),
  same('Identity'),
  same('Clip', [3, 4], {
    inputs: [
      [3, 4],
      { fixed: fromNumbers('float64', [], [-0.4]) },
      { fixed: fromNumbers('float64', [], [0.5]) },
    ],
  }),
  {
    op: 'Where',
    inputs: [bools([3, 1], [1, 0, 1]), [3, 4], [4]],
    outputs: [[3, 4]],
  },
  same('Cast', [3, 4], { attributes: { to: 11 } }),

  same('Gelu', [3, 4], { attributes: { approximate: 'none' }, single: true }),
  same('Gelu', [3, 4], { attributes: { approximate: 'tanh' }, single: true, title: 'tanh' }),
  same('Gelu', [3, 4], { domain: 'com.microsoft', single: true }),
  same('FastGelu', [3, 4], { domain: 'com.microsoft', single: true }),
  {
    op: 'FastGelu',
    title: 'with bias',
    domain: 'com.microsoft',
    inputs: [[3, 4], [4]],
    outputs: [[3, 4]],
    single: true,
  },
  same('QuickGelu', [3, 4], { domain: 'com.microsoft', single: true }),
  same('Gelu', [3, 4], { domain: 'deepspeed', attributes: { approximate: 'tanh' } }),
  same('Silu', [3, 4], { domain: 'deepspeed' }),
  {
    op: 'SiluMul',
    domain: 'deepspeed',
    inputs: [
      [3, 4],
      [3, 4],
    ],
    outputs: [[3, 4]],
  },
  same('Swish', [3, 4]),
  same('Softmax', [2, 3, 4], { attributes: { axis: -1 } }),
  same('Softmax', [2, 3, 4], { attributes: { axis: 1 }, title: 'inner axis' }),
  same('LogSoftmax', [2, 3, 4], { attributes: { axis: -1 } }),
  same('LogSoftmax', [2, 3, 4], { attributes: { axis: 0 }, title: 'outer axis' }),

  {
    op: 'MatMul',
    inputs: [
      [3, 4],
      [4, 5],
    ],
    outputs: [[3, 5]],
  },
  {
    op: 'MatMul',
    title: 'weight',
    inputs: [
      [2, 3, 4],
      [4, 5],
    ],
    outputs: [[2, 3, 5]],
  },
  {
    op: 'MatMul',
    title: 'batched',
    inputs: [
      [2, 2, 3, 4],
      [2, 4, 5],
    ],
    outputs: [[2, 2, 3, 5]],
  },
  {
    op: 'MatMul',
    title: 'left 2-D',
    inputs: [
      [3, 4],
      [2, 4, 5],
    ],
    outputs: [[2, 3, 5]],
  },
  { op: 'MatMul', title: 'row', inputs: [[4], [2, 4, 5]], outputs: [[2, 5]] },
  { op: 'MatMul', title: 'column', inputs: [[2, 3, 4], [4]], outputs: [[2, 3]] },
  { op: 'MatMul', title: 'dot', inputs: [[4], [4]], outputs: [[]] },
  ...[0, 1].flatMap((transA) =>
    [0, 1].flatMap((transB) => [
      {
        op: 'Gemm',
        title: `transA ${transA} transB ${transB}`,
        inputs: [transA ? [4, 3] : [3, 4], transB ? [5, 4] : [4, 5], [5]],
        outputs: [[3, 5]],
        attributes: { transA, transB, alpha: 0.5, beta: 2 },
      },
      {
        op: 'FusedMatMul',
        title: `transA ${transA} transB ${transB}`,
        domain: 'com.microsoft',
        inputs: [transA ? [2, 4, 3] : [2, 3, 4], transB ? [2, 5, 4] : [2, 4, 5]],
        outputs: [[2, 3, 5]],
        attributes: { transA, transB, alpha: 0.5 },
      },
      {
        op: 'FusedMatMul',
        title: `transA ${transA} transB ${transB} 2-D weight`,
        domain: 'com.microsoft',
        inputs: [transA ? [2, 4, 3] : [2, 3, 4], transB ? [5, 4] : [4, 5]],
        outputs: [[2, 3, 5]],
        attributes: { transA, transB },
      },
    ]),
  ),

  { op: 'ReduceSum', inputs: [[2, 3, 4], int64([1], [-1])], outputs: [[2, 3, 1]] },
  {
    op: 'ReduceSum',
    title: 'without kept axes',
    inputs: [[2, 3, 4], int64([2], [0, 2])],
    outputs: [[3]],
    attributes: { keepdims: 0 },
  },
  { op: 'ReduceSum', title: 'all', inputs: [[2, 3]], outputs: [[1, 1]] },
  { op: 'ReduceMean', inputs: [[2, 3, 4], int64([1], [1])], outputs: [[2, 1, 4]] },
  {
    op: 'ReduceMax',
    inputs: [[2, 3, 4], int64([1], [-1])],
    outputs: [[2, 3]],
    attributes: { keepdims: 0 },
  },
  { op: 'ReduceMin', inputs: [[2, 3, 4], int64([1], [0])], outputs: [[1, 3, 4]] },

  { op: 'Reshape', inputs: [[2, 6], int64([2], [3, -1])], outputs: [[3, 4]] },
  { op: 'Flatten', inputs: [[2, 3, 4]], outputs: [[2, 12]] },
  { op: 'Squeeze', inputs: [[2, 1, 4], int64([1], [1])], outputs: [[2, 4]] },
  { op: 'Unsqueeze', inputs: [[2, 4], int64([1], [0])], outputs: [[1, 2, 4]] },
  { op: 'Transpose', inputs: [[2, 3, 4]], outputs: [[4, 3, 2]] },
  {
    op: 'Transpose',
    title: 'perm',
    inputs: [[2, 3, 4]],
    outputs: [[4, 2, 3]],
    attributes: { perm: [2, 0, 1] },
  },
  { op: 'Expand', inputs: [[3, 1], int64([3], [2, 1, 4])], outputs: [[2, 3, 4]] },
  {
    op: 'Concat',
    inputs: [
      [2, 3],
      [2, 1],
    ],
    outputs: [[2, 4]],
    attributes: { axis: -1 },
  },
  {
    op: 'Split',
    title: 'one part unused',
    inputs: [[2, 6], int64([3], [1, 2, 3])],
    outputs: [
      [2, 1],
      [2, 2],
      [2, 3],
    ],
    attributes: { axis: 1 },
  },
  {
    op: 'Slice',
    inputs: [[4, 6], int64([2], [1, -5]), int64([2], [99, -1]), int64([2], [0, 1])],
    outputs: [[3, 4]],
  },
  {
    op: 'Slice',
    title: 'with steps',
    inputs: [
      [4, 6],
      int64([2], [-1, 1]),
      int64([2], [-99, 6]),
      int64([2], [0, 1]),
      int64([2], [-1, 2]),
    ],
    outputs: [[4, 3]],
  },
  { op: 'Pad', inputs: [[2, 3], int64([4], [1, 0, 0, 2])], outputs: [[3, 5]] },
  { op: 'Trilu', inputs: [[2, 3, 3]], outputs: [[2, 3, 3]], attributes: { upper: 0 } },

  { op: 'Gather', inputs: [[5, 3], int64([2, 3], [0, 4, 0, 1, 1, 0])], outputs: [[2, 3, 3]] },
  {
    op: 'Gather',
    title: 'inner axis',
    inputs: [[2, 5, 3], int64([2, 2], [0, 4, -1, 0])],
    outputs: [[2, 2, 2, 3]],
    attributes: { axis: 1 },
  },
  { op: 'Gather', title: 'scalar', inputs: [[2, 5, 3], int64([], [1])], outputs: [[5, 3]] },
  {
    op: 'GatherElements',
    inputs: [[3, 4], int64([3, 2], [0, 1, 3, 3, 2, -1])],
    outputs: [[3, 2]],
    attributes: { axis: 1 },
  },
  { op: 'GatherND', inputs: [[3, 4], int64([3, 1], [2, 0, 2])], outputs: [[3, 4]] },

  {
    op: 'LayerNormalization',
    inputs: [[2, 3, 4], [4], [4]],
    outputs: [[2, 3, 4]],
    attributes: { axis: -1, epsilon: 1e-2 },
  },
  {
    op: 'LayerNormalization',
    title: 'two axes, no bias',
    inputs: [
      [2, 3, 4],
      [3, 4],
    ],
    outputs: [[2, 3, 4]],
    attributes: { axis: 1 },
  },
  {
    op: 'RMSNormalization',
    inputs: [[2, 3, 4], [4]],
    outputs: [[2, 3, 4]],
    attributes: { axis: -1, epsilon: 1e-2 },
  },
  {
    op: 'SimplifiedLayerNormalization',
    inputs: [[2, 3, 4], [4]],
    outputs: [[2, 3, 4]],
    attributes: { axis: -1, epsilon: 1e-2 },
  },
  {
    op: 'LayerNormalization',
    domain: 'deepspeed',
    inputs: [[2, 3, 4], [4], [4]],
    outputs: [
      [2, 3, 4],
      [2, 3],
      [2, 3],
    ],
    attributes: { epsilon: 1e-2 },
  },
  {
    op: 'RMSNormalization',
    domain: 'deepspeed',
    inputs: [[2, 3, 4], [4]],
    outputs: [
      [2, 3, 4],
      [2, 3],
    ],
    attributes: { epsilon: 1e-2 },
  },

  ...(['none', 'sum', 'mean'] as const).flatMap((reduction): Case[] => [
    {
      op: 'SoftmaxCrossEntropyLoss',
      title: reduction,
      inputs: [[5, 4], labels],
      outputs: [reduction === 'none' ? [5] : []],
      attributes: { reduction, ignore_index: -100 },
    },
    {
      op: 'SoftmaxCrossEntropyLoss',
      title: `${reduction}, weights, positions`,
      inputs: [
        [2, 4, 3],
        int64([2, 3], [0, 3, 1, 1, 2, 0]),
        { fixed: fromNumbers('float64', [4], [0.5, 1, 2, 0.1]) },
      ],
      outputs: [reduction === 'none' ? [2, 3] : []],
      attributes: { reduction, ignore_index: 1 },
    },
    {
      op: 'NegativeLogLikelihoodLoss',
      title: reduction,
      inputs: [[5, 4], int64([5], [2, 0, 1, 3, 1])],
      outputs: [reduction === 'none' ? [5] : []],
      attributes: { reduction },
    },
  ]),
  {
    op: 'SoftmaxCrossEntropy',
    domain: 'deepspeed',
    inputs: [[5, 4], labels],
    outputs: [[5], [5]],
    attributes: { ignore_index: -100 },
  },

  {
    op: 'RotaryEmbedding',
    domain: 'deepspeed',
    inputs: [
      [2, 2, 3, 4],
      { fixed: randomTensor({ dtype: 'float64', shape: [3, 2] }, 5) },
      { fixed: randomTensor({ dtype: 'float64', shape: [3, 2] }, 6) },
    ],
    outputs: [[2, 2, 3, 4]],
  },
  {
    op: 'Attention',
    title: 'heads first, causal over more keys than queries, with a bias',
    domain: 'deepspeed',
    inputs: [
      [2, 2, 3, 4],
      [2, 2, 5, 4],
      [2, 2, 5, 4],
      { fixed: randomTensor({ dtype: 'float64', shape: [2, 1, 5] }, 5) },
    ],
    attributes: { layout: 'bhsd', heads: 2, kv_heads: 2, scale: 0.6, causal: 1 },
    outputs: [
      [2, 2, 3, 4],
      [2, 2, 3],
    ],
  },
  {
    op: 'Attention',
    title: 'positions first, grouped heads, a key mask that hides a row as a whole',
    domain: 'deepspeed',
    inputs: [[2, 3, 16], [2, 3, 8], [2, 3, 8], undefined, bools([2, 3], [0, 0, 1, 1, 0, 1])],
    attributes: { layout: 'bshd', heads: 4, kv_heads: 2, scale: 0.5, causal: 1 },
    outputs: [
      [2, 3, 16],
      [2, 4, 3],
    ],
  },
  {
    op: 'Attention',
    title: 'packed, grouped heads, rotary',
    domain: 'deepspeed',
    inputs: [
      [2, 3, 16],
      undefined,
      undefined,
      undefined,
      undefined,
      { fixed: randomTensor({ dtype: 'float64', shape: [3, 2] }, 5) },
      { fixed: randomTensor({ dtype: 'float64', shape: [3, 2] }, 6) },
    ],
    attributes: { layout: 'packed', heads: 2, kv_heads: 1, scale: 0.5, causal: 0 },
    outputs: [
      [2, 3, 8],
      [2, 2, 3],
    ],
  },
  {
    op: 'MatMul',
    title: 'with bias and residual',
    domain: 'deepspeed',
    inputs: [[2, 3, 4], [5, 4], undefined, [5], [2, 3, 5]],
    attributes: { transB: 1, alpha: 0.5 },
    outputs: [[2, 3, 5]],
  },
  ...[0, 1].map((transposed) => ({
    op: 'LinearCrossEntropy',
    title: `of a frozen weight, transposed: ${transposed}`,
    domain: 'deepspeed',
    inputs: [
      [5, 3],
      { fixed: randomTensor({ dtype: 'float64', shape: transposed ? [3, 4] : [4, 3] }, 5) },
      labels,
    ],
    attributes: { ignore_index: -100, transposed },
    outputs: [[5], [5]],
  })),
  {
    op: 'RotaryEmbedding',
    domain: 'com.microsoft',
    inputs: [
      [2, 2, 3, 4],
      int64([1], [0]),
      { fixed: randomTensor({ dtype: 'float32', shape: [8, 2] }, 5) },
      { fixed: randomTensor({ dtype: 'float32', shape: [8, 2] }, 6) },
    ],
    outputs: [[2, 2, 3, 4]],
    single: true,
  },
  {
    op: 'RotaryEmbedding',
    inputs: [
      [2, 2, 3, 4],
      { fixed: randomTensor({ dtype: 'float32', shape: [8, 2] }, 5) },
      { fixed: randomTensor({ dtype: 'float32', shape: [8, 2] }, 6) },
      int64([2, 3], [0, 1, 2, 5, 6, 7]),
    ],
    outputs: [[2, 2, 3, 4]],
    single: true,
    opset: 23,
  },
];

describe('gradient rules', () => {
  for (const item of cases) {
    const name = `${item.domain ? `${item.domain}.` : ''}${item.op}`;
    test(`${name} ${item.title ?? ''}`, async () => check(item));
  }
});

async function check(item: Case): Promise<void> {
  const dtype: DataType = item.single ? 'float32' : 'float64';
  const types = new Map<string, ValueType>();
  const feeds: Values = {};
  const initializers = new Map<string, Tensor>();
  const names = item.inputs.map((input, i) => {
    if (input === undefined) return '';
    const name = `x${i}`;
    if ('fixed' in input) {
      initializers.set(name, input.fixed);
      types.set(name, {
        dtype: input.fixed.dtype,
        shape: input.fixed.dims,
        constant: input.fixed,
      });
      return name;
    }
    const { shape, low, high } = 'low' in input ? input : { shape: input, low: -1, high: 1 };
    feeds[name] = randomTensor({ dtype, shape }, i + 1, low, high);
    types.set(name, { dtype, shape: feeds[name]!.dims });
    return name;
  });
  const outputs = item.outputs.map((output, i) => {
    const type = 'dtype' in output ? output : { dtype, shape: output as Shape };
    types.set(`y${i}`, type);
    return { name: `y${i}`, ...type };
  });
  const graph: Graph = {
    name: item.op,
    inputs: Object.keys(feeds).map((name) => ({ name, ...types.get(name)! })),
    outputs: outputs.slice(0, 1),
    initializers,
    nodes: [
      {
        name: item.op,
        opType: item.op,
        domain: item.domain ?? '',
        inputs: names,
        outputs: outputs.map(({ name }) => name),
        attributes: Object.fromEntries(
          Object.entries(item.attributes ?? {}).map(([key, value]) => [key, attribute(key, value)]),
        ),
      },
    ],
    valueInfo: new Map(),
  };
  const { forward, backward } = differentiate(
    { graph, types },
    {
      parameters: [],
      activations: Object.keys(feeds),
      outputGradients: new Map([['y0', ['grad.y0']]]),
    },
  );
  expect(backward).not.toBeNull();
  const weights = randomTensor(types.get('y0')!, 77);
  const runForward = await load(
    lower({ graph: forward, types: backward!.types }, { what: 'all' }).graph,
    item.opset,
  );
  const values = await runForward(feeds);
  const runBackward = await load(lower(backward!, { what: 'all' }).graph, item.opset);
  const gradients = await runBackward({ ...feeds, ...values, 'grad.y0': weights });

  // float64: see centralDifferences. float32: rounding 6e-8·|objective|/h + truncation h², h = 1e-2.
  const [step, tolerance] = item.single ? [1e-2, 2e-3] : [1e-5, 1e-7];
  const runPlain = await load(
    lower({ graph, types: new Map(types) }, { what: 'all' }).graph,
    item.opset,
  );
  for (const name of Object.keys(feeds)) {
    const expected = await centralDifferences(runPlain, feeds, name, { y0: weights }, step);
    const got = toNumbers(gradients[`grad.${name}`]!);
    expect(relativeError(got, expected), `gradient of ${name}`).toBeLessThan(tolerance);
  }
}

/**
 * What lies between products disappears into them: which operators are left of a training graph, and that
 * outputs and gradients are those of the graph as it was.
 */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../builder.ts';
import type { Graph, Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { type PlanOptions, planTraining, type TrainingPlan } from '../../plan.ts';
import { fromNumbers, toNumbers } from '../../tensor.ts';
import { trainOnce } from '../../testing/plan-runner.ts';
import { randomTensor, relativeError, type Values } from '../../testing.ts';

const rows = 2;
const length = 3;
const width = 4;
const inner = 6;

class Model {
  readonly b = new GraphBuilder('products');
  readonly x = this.b.input('x', 'float32', [rows, length, width]);
  private seed = 1;

  parameter(name: string, ...shape: number[]): string {
    return this.b.initializer(name, randomTensor({ dtype: 'float32', shape }, this.seed++));
  }

  op(type: string, inputs: string[], attributes = {}): string {
    return this.b.op(type, inputs, attributes);
  }

  ints(...values: number[]): string {
    return this.b.constant('int64', [values.length], values);
  }

  /** x · W of x [.., from]. */
  linear(name: string, x: string, from: number, to: number): string {
    return this.op('MatMul', [x, this.parameter(name, from, to)]);
  }

  biased(name: string, x: string, from: number, to: number): string {
    return this.op('Add', [this.linear(name, x, from, to), this.parameter(`${name}.bias`, to)]);
  }

  norm(name: string, x: string): string {
    const [gain, bias] = ['gain', 'bias'].map((part) => this.parameter(`${name}.${part}`, width));
    return this.op('LayerNormalization', [x, gain!, bias!], { axis: -1 });
  }

  graph(output: string): Graph {
    // Not the output alone: its gradient is to differ from element to element.
    const weighed = this.op('Mul', [output, output]);
    this.b.output(
      this.b.op('ReduceSum', [weighed], { keepdims: 0 }, { output: 'loss' }),
      'float32',
    );
    return this.b.build();
  }
}

interface Case {
  title: string;
  build(m: Model): string;
  /** Products of forward and backward as text, in order. */
  forward: string[];
  backward: string[];
}

const cases: Case[] = [
  {
    title: 'bias and residual',
    build: (m) => m.op('Add', [m.x, m.biased('w', m.x, width, width)]),
    forward: ['MatMul bias residual'],
    backward: ['MatMulAccumulate bias'],
  },
  {
    title: 'an activation between two products',
    build: (m) => {
      const hidden = m.op('Gelu', [m.biased('up', m.x, width, inner)], { approximate: 'tanh' });
      return m.biased('down', hidden, inner, width);
    },
    forward: ['MatMul bias', 'MatMul gelu_tanh> bias'],
    backward: [
      'MatMul z >gelu_tanh_grad',
      'MatMulAccumulate bias',
      'MatMulAccumulate gelu_tanh> bias',
    ],
  },
  {
    title: 'SiLU with several readers',
    build: (m) => {
      const hidden = m.linear('up', m.x, width, width);
      const gate = m.op('Mul', [hidden, m.op('Sigmoid', [hidden])]);
      return m.op('Add', [m.linear('a', gate, width, width), m.linear('b', gate, width, width)]);
    },
    forward: ['MatMul', 'MatMul', 'MatMul residual', 'Silu'],
    backward: [
      'MatMul',
      'MatMul residual',
      'MatMulAccumulate',
      'MatMulAccumulate',
      'MatMulAccumulate',
      'Silu',
      'SiluGrad',
    ],
  },
  {
    title: 'a gated MLP',
    build: (m) => {
      const [gate, up] = ['gate', 'up'].map((name) => m.linear(name, m.x, width, inner));
      const gated = m.op('Mul', [m.op('Mul', [gate!, m.op('Sigmoid', [gate!])]), up!]);
      return m.op('Add', [m.x, m.linear('down', gated, inner, width)]);
    },
    forward: ['MatMul', 'MatMul', 'MatMul silu_mul> a2 residual'],
    backward: [
      'MatMul',
      'MatMulAccumulate',
      'MatMulAccumulate',
      'MatMulAccumulate silu_mul> a2',
      'SiluMulGrad',
    ],
  },
  {
    title: 'a gated MLP whose weights are stored the other way round',
    build: (m) => {
      const [gate, up] = ['gate', 'up'].map((name) => m.linear(name, m.x, width, inner));
      const gated = m.op('Mul', [m.op('Mul', [gate!, m.op('Sigmoid', [gate!])]), up!]);
      const turned = m.op('Transpose', [m.parameter('down', width, inner)], { perm: [1, 0] });
      return m.op('MatMul', [gated, turned]);
    },
    forward: ['MatMul', 'MatMul', 'MatMul silu_mul> a2 ᵀ'],
    backward: [
      'MatMul',
      'MatMulAccumulate',
      'MatMulAccumulate',
      'MatMulAccumulate <silu_mul b2',
      'SiluMulGrad',
    ],
  },
  {
    title: 'weights stored the other way round',
    build: (m) => {
      const weight = m.parameter('w', inner, width);
      const turned = m.op('Transpose', [weight], { perm: [1, 0] });
      return m.op('MatMul', [m.x, turned]);
    },
    forward: ['MatMul ᵀ'],
    backward: ['MatMulAccumulate'],
  },
  {
    title: 'Gemm on flattened rows, a residual on the others',
    build: (m) => {
      const flat = m.op('Reshape', [m.x, m.ints(-1, width)]);
      const inputs = [flat, m.parameter('w', width, width), m.parameter('w.bias', width)];
      const back = m.op('Reshape', [m.op('Gemm', inputs), m.ints(rows, length, width)]);
      return m.op('Add', [back, m.x]);
    },
    forward: ['MatMul bias residual'],
    backward: ['MatMulAccumulate bias'],
  },
  {
    title: 'a pre-norm residual block',
    build: (m) => {
      const first = m.op('Add', [m.x, m.biased('in', m.x, width, width)]);
      return m.op('Add', [first, m.linear('w', m.norm('norm', first), width, width)]);
    },
    forward: ['MatMul bias residual', 'MatMul residual'],
    backward: [
      'LayerNormalizationGrad residual',
      'MatMul',
      'MatMulAccumulate',
      'MatMulAccumulate bias',
    ],
  },
  {
    title: 'a product that two read keeps its value',
    build: (m) => {
      const y = m.linear('w', m.x, width, width);
      return m.op('Add', [m.op('Gelu', [y]), y]);
    },
    forward: ['Gelu', 'MatMul'],
    backward: ['GeluGrad', 'MatMulAccumulate'],
  },
  {
    title: 'products of activations, batched',
    build: (m) => {
      const y = m.linear('w', m.x, width, width);
      const turned = m.op('Transpose', [y], { perm: [0, 2, 1] });
      return m.op('Mul', [m.op('MatMul', [m.x, turned]), m.b.constant('float32', [], [0.5])]);
    },
    forward: ['MatMul', 'MatMul ×0.5 ᵀ'],
    backward: ['MatMul', 'MatMulAccumulate'],
  },
];

const ports: Readonly<Record<string, readonly string[]>> = {
  MatMul: ['', '', 'a2', 'bias', 'residual', 'z'],
  MatMulAccumulate: ['', '', '', '', 'a2', 'bias', '', 'b2'],
  LayerNormalizationGrad: ['', '', '', '', '', 'residual'],
};

/** `MatMul gelu> <silu bias residual >silu ×0.5 ᵀ`: A's prologue, B's, inputs, epilogue. */
function describeNode(node: Node): string {
  const text = (name: string) => {
    const attribute = node.attributes[name];
    return attribute?.type === 'string' && attribute.value !== 'none' ? attribute.value : '';
  };
  const alpha = node.attributes.alpha?.value ?? 1;
  const given = (ports[node.opType] ?? []).filter((name, i) => name !== '' && node.inputs[i]);
  return [
    node.opType,
    text('prologue') && `${text('prologue')}>`,
    text('prologueB') && `<${text('prologueB')}`,
    ...given,
    text('epilogue') && `>${text('epilogue')}`,
    alpha !== 1 && `×${alpha}`,
    node.opType === 'MatMul' &&
      node.attributes.transB?.value === 1 &&
      node.name.includes('MatMul') &&
      'ᵀ',
  ]
    .filter(Boolean)
    .join(' ');
}

const shown = /Grad$|^MatMul|^Gelu$|^Silu/;

function products(graph: Graph, backward: boolean): string[] {
  return graph.nodes
    .filter((node) => operatorKey(node).startsWith('deepspeed.') && shown.test(node.opType))
    .map(describeNode)
    .map((text) => (backward ? text.replace(' ᵀ', '') : text))
    .sort();
}

function planOf(graph: Graph, options: Partial<PlanOptions>): TrainingPlan {
  return planTraining(graph, {
    inputShapes: {},
    trainable: (name) => !name.startsWith('const.'),
    ...options,
  });
}

async function expectSame(graph: Graph, feeds: Values, a: Partial<PlanOptions>, b: typeof a) {
  const parameters = [...graph.initializers].filter(([name]) => !name.startsWith('const.'));
  const all = { ...feeds, ...Object.fromEntries(parameters) };
  const left = await trainOnce(planOf(graph, { ...a, lower: 'all' }), all);
  const right = await trainOnce(planOf(graph, { ...b, lower: 'all' }), all);
  const [one, other] = [left, right].map(({ outputs }) => toNumbers(outputs.loss!));
  // Some dozen float32 terms, added in another order.
  expect(relativeError(one!, other!)).toBeLessThan(1e-5);
  expect([...left.gradients.keys()].sort()).toEqual([...right.gradients.keys()].sort());
  for (const [name, gradient] of left.gradients) {
    const expected = toNumbers(right.gradients.get(name)!);
    expect(relativeError(toNumbers(gradient), expected), name).toBeLessThan(1e-5);
  }
}

describe('products', () => {
  for (const { title, build, forward, backward } of cases) {
    test(title, async () => {
      const model = new Model();
      const graph = model.graph(build(model));
      const plan = planOf(graph, {});
      const program = [...plan.programs.values()][0]!;
      expect(products(program.forward, false)).toEqual(forward);
      expect(products(program.backward!, true)).toEqual(backward);
      const x = randomTensor({ dtype: 'float32', shape: [rows, length, width] }, 99);
      await expectSame(graph, { x }, { fuse: true }, { fuse: false });
    });
  }
});

describe('linear cross-entropy', () => {
  const vocabulary = 7;

  function head(transposed: boolean, tied: boolean): Graph {
    const m = new Model();
    const labels = m.b.input('labels', 'int64', [rows * length]);
    const table = m.parameter('table', ...(transposed ? [width, vocabulary] : [vocabulary, width]));
    const weight = transposed ? table : m.op('Transpose', [table], { perm: [1, 0] });
    const looked = tied && m.op('Gather', [table, m.b.constant('int64', [length], [1, 4, 1])]);
    const hidden = m.norm('norm', looked ? m.op('Add', [m.x, looked]) : m.x);
    const logits = m.b.op('MatMul', [hidden, weight], {}, { output: 'logits' });
    const flat = m.op('Reshape', [logits, m.ints(-1, vocabulary)]);
    const attributes = { reduction: 'mean', ignore_index: -100 };
    m.b.op('SoftmaxCrossEntropyLoss', [flat, labels], attributes, { output: 'loss' });
    m.b.output('loss', 'float32', []);
    m.b.output('logits', 'float32', [rows, length, vocabulary]);
    return m.b.build();
  }

  const feeds: Values = {
    x: randomTensor({ dtype: 'float32', shape: [rows, length, width] }, 99),
    labels: fromNumbers('int64', [rows * length], [0, 6, -100, 3, 3, 1]),
  };
  const operators = (graph: Graph) => graph.nodes.map(({ opType }) => opType);

  test.each([
    { transposed: false, tied: false },
    { transposed: false, tied: true },
    { transposed: true, tied: false },
  ])('large logits never exist in training: %o', async ({ transposed, tied }) => {
    const graph = head(transposed, tied);
    const plan = planOf(graph, { maxLogitsBytes: 0, keepOutputs: ['logits'] });
    const { forward, backward, inference } = [...plan.programs.values()].at(-1)!;
    expect(operators(forward)).toContain('LinearCrossEntropy');
    expect(operators(backward!)).toContain('LinearCrossEntropyGrad');
    expect(operators(inference)).not.toContain('LinearCrossEntropy');
    const large = rows * length * vocabulary;
    for (const { shape } of forward.outputs) {
      expect((shape as number[]).reduce((a, b) => a * b, 1)).not.toBe(large);
    }
    await expectSame(graph, feeds, { maxLogitsBytes: 0 }, { fuse: false });
  });

  test('logits up to the limit stay, and so do those that are a training output', () => {
    const bytes = rows * length * vocabulary * 4;
    const small = planOf(head(false, false), { maxLogitsBytes: bytes });
    expect(operators([...small.programs.values()][0]!.forward)).toContain('SoftmaxCrossEntropy');
    const larger = planOf(head(false, false), { maxLogitsBytes: bytes - 1 });
    expect(operators([...larger.programs.values()][0]!.forward)).toContain('LinearCrossEntropy');
  });

  test('a frozen head gives only the gradient of what it reads', async () => {
    const trainable = (name: string) => name.startsWith('norm.');
    const options = { maxLogitsBytes: 0, trainable, bound: (name: string) => name === 'table' };
    const graph = head(false, false);
    const plan = planOf(graph, options);
    const grad = [...plan.programs.values()]
      .at(-1)!
      .backward!.nodes.find(({ opType }) => opType === 'LinearCrossEntropyGrad')!;
    expect(grad.inputs).toHaveLength(5);
    await expectSame(graph, feeds, options, { ...options, fuse: false });
  });
});

/**
 * Attention in the forms that models and exporters write it: each is found, and its outputs and gradients
 * are those of the graph as it was.
 */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../../builder.ts';
import type { Graph } from '../../../ir.ts';
import { planTraining, type TrainingPlan } from '../../../plan.ts';
import { trainOnce } from '../../../testing/plan-runner.ts';
import { fromNumbers, toNumbers } from '../../../tensor.ts';
import { randomTensor, relativeError, run, type Values } from '../../../testing.ts';

const batch = 2;
const heads = 4;
const width = 16;

class Model {
  readonly b = new GraphBuilder('attention');
  readonly length: number;
  readonly x: string;
  /** 1 for a token, 0 for padding. */
  readonly present: string;
  private seed = 1;

  constructor(length: number) {
    this.length = length;
    this.x = this.b.input('x', 'float32', [batch, length, heads * width]);
    this.present = this.b.input('present', 'int64', [batch, length]);
  }

  op(type: string, inputs: (string | undefined)[], attributes = {}, domain = ''): string {
    return this.b.op(type, inputs, attributes, { domain });
  }

  parameter(name: string, shape: number[]): string {
    const tensor = randomTensor({ dtype: 'float32', shape }, this.seed++, -0.6, 0.6);
    return this.b.initializer(name, tensor);
  }

  number(value: number): string {
    return this.b.constant('float32', [], [value]);
  }

  ints(...values: number[]): string {
    return this.b.constant('int64', [values.length], values);
  }

  /** x · W of its own, with `count` heads. */
  project(name: string, count = heads, from = this.x): string {
    const weight = this.parameter(name, [heads * width, count * width]);
    return this.op('MatMul', [from, weight]);
  }

  /** [B, S, count · width] → [B, count, S, width] */
  split(value: string, count = heads): string {
    const apart = this.op('Reshape', [value, this.ints(0, 0, count, width)]);
    return this.op('Transpose', [apart], { perm: [0, 2, 1, 3] });
  }

  merge(context: string): string {
    const rows = this.op('Transpose', [context], { perm: [0, 2, 1, 3] });
    return this.op('Reshape', [rows, this.ints(0, 0, heads * width)]);
  }

  transposed(value: string): string {
    return this.op('Transpose', [value], { perm: [0, 1, 3, 2] });
  }

  /** bool [S, S] of positions, as a comparison. */
  causal(): string {
    const zero = this.b.constant('int64', [], [0]);
    const one = this.b.constant('int64', [], [1]);
    const shape = this.op('Shape', [this.x]);
    const length = this.op('Gather', [shape, one]);
    const places = this.op('Range', [zero, length, one]);
    return this.op('LessOrEqual', [places, this.op('Unsqueeze', [places, this.ints(1)])]);
  }

  low(condition: string, value = -65504): string {
    return this.op('Where', [condition, this.number(0), this.number(value)]);
  }

  /** softmax(scores) · V, merged. */
  finish(scores: string, v: string): string {
    return this.merge(this.op('MatMul', [this.op('Softmax', [scores], { axis: -1 }), v]));
  }

  simple(scores: (q: string, k: string) => string): string {
    const [q, k, v] = ['q', 'k', 'v'].map((name) => this.split(this.project(name)));
    return this.finish(scores(q!, k!), v!);
  }

  graph(output: string): Graph {
    const weighted = this.op('Mul', [output, this.project('probe')]);
    this.b.output(
      this.b.op('ReduceSum', [weighted], { keepdims: 0 }, { output: 'loss' }),
      'float32',
    );
    return this.b.build();
  }
}

const scale = 1 / Math.sqrt(width);
const scaled = (m: Model, q: string, k: string) =>
  m.op('Div', [m.op('MatMul', [q, m.transposed(k)]), m.number(Math.sqrt(width))]);

interface Variant {
  title: string;
  /** How the report calls it. */
  found: string;
  build(m: Model): string;
  /** What an operator of ONNX Runtime stands for, which itself has no gradient. */
  pattern?(m: Model): string;
  length?: number;
  opset?: number;
}

const variants: Variant[] = [
  {
    title: 'one projection, Split, a mask that is added',
    found: 'packed, causal',
    build: (m) => {
      const qkv = m.op('Add', [
        m.project('qkv', 3 * heads),
        m.parameter('bias', [3 * heads * width]),
      ]);
      const parts = m.b.ops('Split', [qkv], 3, { axis: -1, num_outputs: 3 });
      const [q, k, v] = parts.map((part) => m.split(part)) as [string, string, string];
      return m.finish(m.op('Add', [scaled(m, q, k), m.low(m.causal())]), v);
    },
  },
  {
    title: 'one projection, Slices, keys transposed with their heads',
    found: 'packed, causal',
    build: (m) => {
      const qkv = m.project('qkv', 3 * heads);
      const size = heads * width;
      const [q, k, v] = [0, 1, 2].map((i) =>
        m.op('Slice', [qkv, m.ints(i * size), m.ints((i + 1) * size), m.ints(2)]),
      ) as [string, string, string];
      const keys = m.op('Transpose', [m.op('Reshape', [k, m.ints(0, 0, heads, width)])], {
        perm: [0, 2, 3, 1],
      });
      const queries = m.op('Mul', [m.split(q), m.number(scale)]);
      const scores = m.op('MatMul', [queries, keys]);
      const mask = m.op('Unsqueeze', [m.low(m.causal(), -1e9), m.ints(0, 1)]);
      return m.finish(m.op('Add', [scores, mask]), m.split(v));
    },
  },
  {
    title: 'three projections, scaled on both sides, no mask',
    found: 'bshd',
    build: (m) =>
      m.simple((q, k) => {
        const root = m.number(Math.sqrt(scale));
        const keys = m.op('Mul', [m.transposed(k), root]);
        return m.op('MatMul', [m.op('Mul', [q, root]), keys]);
      }),
  },
  {
    title: 'Where over the scores with −∞',
    found: 'bshd, causal',
    build: (m) =>
      m.simple((q, k) =>
        m.op('Where', [m.causal(), scaled(m, q, k), m.number(Number.NEGATIVE_INFINITY)]),
      ),
  },
  {
    title: 'a triangle of low numbers',
    found: 'bshd, causal',
    build: (m) =>
      m.simple((q, k) => {
        const full = m.op('Expand', [m.number(-3.4e38), m.ints(m.length, m.length)]);
        const mask = m.op('Trilu', [full, m.b.constant('int64', [], [1])], { upper: 1 });
        return m.op('Add', [scaled(m, q, k), mask]);
      }),
  },
  {
    title: 'zeros for rows that see nothing, keys transposed with merged axes',
    found: 'bshd, causal',
    build: (m) => {
      const [q, k, v] = ['q', 'k', 'v'].map((name) => m.split(m.project(name))) as [
        string,
        string,
        string,
      ];
      const flat = m.op('Reshape', [k, m.ints(-1, m.length, width)]);
      const turned = m.op('Transpose', [flat], { perm: [0, 2, 1] });
      const keys = m.op('Reshape', [turned, m.ints(batch, heads, width, m.length)]);
      const scores = m.op('Mul', [m.op('MatMul', [q, keys]), m.number(scale)]);
      const masked = m.op('Add', [scores, m.low(m.causal(), Number.NEGATIVE_INFINITY)]);
      const weights = m.op('Softmax', [masked], { axis: -1 });
      const guarded = m.op('Where', [m.op('IsNaN', [weights]), m.number(0), weights]);
      return m.merge(m.op('MatMul', [guarded, v]));
    },
  },
  {
    title: 'causal and padding, (1 − mask) · low',
    found: 'bshd, causal, key mask',
    build: (m) =>
      m.simple((q, k) => {
        const row = m.op('Cast', [m.op('Unsqueeze', [m.present, m.ints(1, 2)])], { to: 1 });
        const hidden = m.op('Mul', [m.op('Sub', [m.number(1), row]), m.number(-3.4e38)]);
        return m.op('Add', [m.op('Add', [scaled(m, q, k), m.low(m.causal())]), hidden]);
      }),
  },
  {
    title: 'causal and padding in one condition',
    found: 'bshd, causal, key mask',
    build: (m) =>
      m.simple((q, k) => {
        const row = m.op('Unsqueeze', [m.op('Cast', [m.present], { to: 9 }), m.ints(1, 2)]);
        const mask = m.low(m.op('And', [m.causal(), row]));
        return m.op('Add', [scaled(m, q, k), mask]);
      }),
  },
  {
    title: 'padding replaced by Where in a causal mask',
    found: 'bshd, causal, key mask',
    build: (m) =>
      m.simple((q, k) => {
        const row = m.op('Unsqueeze', [m.present, m.ints(1, 2)]);
        const gone = m.op('Equal', [row, m.b.constant('int64', [], [0])]);
        const mask = m.op('Where', [gone, m.number(-1e9), m.low(m.causal(), -1e9)]);
        return m.op('Add', [scaled(m, q, k), mask]);
      }),
  },
  {
    title: 'a bias that differs between heads',
    found: 'bshd, causal, bias',
    build: (m) =>
      m.simple((q, k) => {
        const slopes = m.b.constant('float32', [1, heads, 1, 1], [0.5, 0.25, 0.125, 0.0625]);
        const places = m.b.constant(
          'float32',
          [1, 1, 1, m.length],
          Array.from({ length: m.length }, (_, i) => i - m.length),
        );
        const biased = m.op('Add', [scaled(m, q, k), m.op('Mul', [slopes, places])]);
        return m.op('Add', [biased, m.low(m.causal())]);
      }),
  },
  {
    title: 'a mask that is neither causal nor of keys',
    found: 'bshd, bias',
    build: (m) =>
      m.simple((q, k) => {
        const numbers = Array.from({ length: m.length ** 2 }, (_, i) =>
          Math.abs((i % m.length) - Math.floor(i / m.length)) < 2 ? 0 : -1e5,
        );
        const band = m.b.constant('float32', [m.length, m.length], numbers);
        return m.op('Add', [scaled(m, q, k), band]);
      }),
  },
  {
    title: 'key heads repeated by Expand',
    found: 'bshd, grouped heads, causal',
    build: (m) => {
      const [k, v] = ['k', 'v'].map((name) => m.split(m.project(name, 2), 2)) as [string, string];
      return repeatedHeads(m, m.split(m.project('q')), k, v);
    },
  },
  {
    title: 'queries of a group as rows of one product',
    found: 'bshd, grouped heads, causal',
    build: (m) => {
      const queries = m.op('Reshape', [m.split(m.project('q')), m.ints(0, 2, -1, width)]);
      const [k, v] = ['k', 'v'].map((name) => m.split(m.project(name, 2), 2)) as [string, string];
      const mask = m.op('Unsqueeze', [m.low(m.causal()), m.ints(0, 1)]);
      const twice = m.op('Concat', [mask, mask], { axis: 2 });
      const weights = m.op('Softmax', [m.op('Add', [scaled(m, queries, k), twice])], { axis: -1 });
      const context = m.op('MatMul', [weights, v]);
      return m.merge(m.op('Reshape', [context, m.ints(0, heads, -1, width)]));
    },
  },
  {
    title: 'one key head for all queries',
    found: 'bshd, grouped heads',
    build: (m) => {
      const [k, v] = ['k', 'v'].map((name) => m.split(m.project(name, 1), 1)) as [string, string];
      return m.finish(scaled(m, m.split(m.project('q')), k), v);
    },
  },
  {
    title: 'rotary queries and keys',
    found: 'bshd, causal, rotary',
    build: (m) => {
      const [cos, sin] = rotaryTables(m, m.length);
      const turn = (x: string) => turned(m, x, cos, sin);
      return m.simple((q, k) => m.op('Add', [scaled(m, turn(q), turn(k)), m.low(m.causal())]));
    },
  },
  {
    title: 'one head without an axis of its own',
    found: 'bshd, causal',
    build: (m) => {
      const [q, k, v] = ['q', 'k', 'v'].map((name) => m.project(name)) as [string, string, string];
      const keys = m.op('Transpose', [k], { perm: [0, 2, 1] });
      const scores = m.op('Mul', [m.op('MatMul', [q, keys]), m.number(0.2)]);
      const masked = m.op('Add', [scores, m.low(m.causal())]);
      return m.op('MatMul', [m.op('Softmax', [masked], { axis: 2 }), v]);
    },
  },
  {
    title: 'more keys than queries',
    found: 'bshd',
    build: (m) => {
      const memory = m.op('Concat', [m.x, m.x, m.x], { axis: 1 });
      const [k, v] = ['k', 'v'].map((name) => m.split(m.project(name, heads, memory)));
      return m.finish(scaled(m, m.split(m.project('q')), k!), v!);
    },
  },
  {
    title: 'heads that come first as they are',
    found: 'bhsd',
    build: (m) => {
      const first = (name: string) =>
        m.op('Reshape', [m.project(name), m.ints(batch, heads, m.length, width)]);
      const weights = m.op('Softmax', [scaled(m, first('q'), first('k'))], { axis: -1 });
      const context = m.op('MatMul', [weights, first('v')]);
      return m.op('Reshape', [context, m.ints(batch, m.length, heads * width)]);
    },
  },
  {
    title: 'a mask too long to be folded',
    found: 'bshd, causal',
    length: 300,
    build: (m) => m.simple((q, k) => m.op('Add', [scaled(m, q, k), m.low(m.causal())])),
  },
  {
    title: 'Attention of ai.onnx',
    found: 'bshd, causal',
    opset: 23,
    build: (m) =>
      attentionOperator(m, [m.project('q'), m.project('k'), m.project('v')], { is_causal: 1 }),
    pattern: (m) => m.simple((q, k) => m.op('Add', [scaled(m, q, k), m.low(m.causal())])),
  },
  {
    title: 'Attention of ai.onnx: grouped heads, a mask of what is seen, a scale',
    found: 'bshd, grouped heads, causal',
    opset: 23,
    build: (m) => {
      const operands = [m.project('q'), m.project('k', 2), m.project('v', 2), m.causal()];
      return attentionOperator(m, operands, { kv_num_heads: 2, scale });
    },
    pattern: (m) => {
      const [q, k, v] = [m.project('q'), m.project('k', 2), m.project('v', 2)];
      return repeatedHeads(m, m.split(q), m.split(k, 2), m.split(v, 2));
    },
  },
  {
    title: 'MultiHeadAttention',
    found: 'bshd, causal',
    build: (m) => multiHead(m),
    pattern: (m) => m.simple((q, k) => m.op('Add', [scaled(m, q, k), m.low(m.causal())])),
  },
  {
    title: 'MultiHeadAttention that adds a bias',
    found: 'bshd, causal',
    build: (m) => multiHead(m, m.parameter('bias', [3 * heads * width])),
    pattern: (m) => {
      const bias = m.parameter('bias', [3 * heads * width]);
      const size = heads * width;
      const [q, k, v] = ['q', 'k', 'v'].map((name, i) => {
        const part = m.op('Slice', [bias, m.ints(i * size), m.ints((i + 1) * size), m.ints(0)]);
        return m.split(m.op('Add', [m.project(name), part]));
      }) as [string, string, string];
      return m.finish(m.op('Add', [scaled(m, q, k), m.low(m.causal())]), v);
    },
  },
  {
    title: 'GroupQueryAttention',
    found: 'bshd, grouped heads, causal',
    build: (m) => grouped(m, [m.project('q'), m.project('k', 2), m.project('v', 2)]),
    pattern: (m) => {
      const [q, k, v] = [m.project('q'), m.project('k', 2), m.project('v', 2)];
      return repeatedHeads(m, m.split(q), m.split(k, 2), m.split(v, 2));
    },
  },
  {
    title: 'GroupQueryAttention that rotates one packed input',
    found: 'packed, grouped heads, causal, rotary',
    // As many positions as a model may have, not those of the batch.
    build: (m) => grouped(m, [m.project('qkv', heads + 4)], rotaryTables(m, m.length + 3)),
    pattern: (m) => {
      const [cos, sin] = rotaryTables(m, m.length);
      const parts = m.b.ops(
        'Split',
        [m.project('qkv', heads + 4), m.ints(heads * width, 2 * width, 2 * width)],
        3,
        {
          axis: -1,
        },
      ) as [string, string, string];
      const [q, k, v] = parts.map((part, i) => m.split(part, i === 0 ? heads : 2)) as [
        string,
        string,
        string,
      ];
      return repeatedHeads(m, turned(m, q, cos, sin), turned(m, k, cos, sin), v);
    },
  },
];

function attentionOperator(m: Model, operands: string[], attributes: object): string {
  return m.op('Attention', operands, {
    ...{ q_num_heads: heads, kv_num_heads: heads },
    ...attributes,
  });
}

function multiHead(m: Model, bias?: string): string {
  const operands = ['q', 'k', 'v'].map((name) => m.project(name));
  const attributes = { num_heads: heads, unidirectional: 1 };
  return m.op('MultiHeadAttention', [...operands, bias], attributes, 'com.microsoft');
}

/** Two key heads; q, k and v in one input or three, and tables to rotate by. */
function grouped(
  m: Model,
  qkv: string[],
  tables?: [cos: string, sin: string],
  extra: object = {},
): string {
  const [q, k, v] = qkv;
  const lengths = m.b.constant('int32', [batch], Array(batch).fill(m.length - 1));
  const total = m.b.constant('int32', [1], [m.length]);
  const inputs = [q, k, v, undefined, undefined, lengths, total, ...(tables ?? [])];
  const attributes = { num_heads: heads, kv_num_heads: 2, do_rotary: tables ? 1 : 0, ...extra };
  return m.b.ops('GroupQueryAttention', inputs, 3, attributes, { domain: 'com.microsoft' })[0]!;
}

function repeatedHeads(m: Model, q: string, k: string, v: string): string {
  const repeated = (few: string) => {
    const apart = m.op('Unsqueeze', [few, m.ints(2)]);
    const wide = m.op('Expand', [apart, m.ints(batch, 2, heads / 2, m.length, width)]);
    return m.op('Reshape', [wide, m.ints(batch, heads, m.length, width)]);
  };
  const scores = scaled(m, q, repeated(k));
  return m.finish(m.op('Add', [scores, m.low(m.causal())]), repeated(v));
}

/** cos and sin, [positions, width / 2]. */
function rotaryTables(m: Model, positions: number): [string, string] {
  const angles = Array.from({ length: (positions * width) / 2 }, (_, i) => i / 7);
  const table = (values: number[]) => m.b.constant('float32', [positions, width / 2], values);
  return [table(angles.map(Math.cos)), table(angles.map(Math.sin))];
}

function turned(m: Model, x: string, cos: string, sin: string): string {
  const [x1, x2] = m.b.ops('Split', [x], 2, { axis: -1, num_outputs: 2 }) as [string, string];
  const first = m.op('Sub', [m.op('Mul', [x1, cos]), m.op('Mul', [x2, sin])]);
  const second = m.op('Add', [m.op('Mul', [x2, cos]), m.op('Mul', [x1, sin])]);
  return m.op('Concat', [first, second], { axis: -1 });
}

function planOf(graph: Graph, length: number, fuse: boolean): TrainingPlan {
  return planTraining(graph, {
    inputShapes: { x: [batch, length, heads * width], present: [batch, length] },
    trainable: (name) => !name.startsWith('const.'),
    fuse,
    lower: 'all',
  });
}

const lines = (plan: TrainingPlan) => plan.replaced.filter((line) => line.startsWith('attention'));

describe('attention', () => {
  for (const { title, found, build, pattern, length = 5, opset } of variants) {
    test(title, async () => {
      const model = new Model(length);
      const graph = model.graph(build(model));
      const parameters = [...graph.initializers].filter(([name]) => !name.startsWith('const.'));
      // The second row begins with two tokens of padding.
      const present = Array.from({ length: batch * length }, (_, i) =>
        i > 0 && i % length === 2 ? 0 : 1,
      );
      const feeds: Values = {
        x: randomTensor({ dtype: 'float32', shape: [batch, length, heads * width] }, 99),
        present: fromNumbers('int64', [batch, length], present),
        ...Object.fromEntries(parameters),
      };
      const fused = planOf(graph, length, true);
      expect(lines(fused)).toEqual([`attention → deepspeed.Attention (${found}): 1`]);
      const got = await trainOnce(fused, feeds);
      const spelled = new Model(length);
      const plainGraph = pattern ? spelled.graph(pattern(spelled)) : graph;
      const plain = await trainOnce(planOf(plainGraph, length, false), feeds);
      // Sums of some hundred float32 products in another order.
      const close = 2e-5;
      const [own, ...others] = [got.outputs, plain.outputs, await run(graph, feeds, opset)].map(
        ({ loss }) => toNumbers(loss!),
      );
      for (const loss of others) expect(relativeError(own!, loss)).toBeLessThan(close);
      for (const [name, gradient] of got.gradients) {
        const expected = toNumbers(plain.gradients.get(name)!);
        expect(relativeError(toNumbers(gradient), expected), name).toBeLessThan(close);
      }
    });
  }

  test.each([
    [
      'its bias needs a gradient',
      (m: Model) =>
        m.simple((q, k) =>
          m.op('Add', [scaled(m, q, k), m.parameter('table', [1, heads, m.length, m.length])]),
        ),
    ],
    [
      'Tanh lies between its product and the softmax',
      (m: Model) => m.simple((q, k) => m.op('Tanh', [scaled(m, q, k)])),
    ],
    [
      'its scores are a sum of products',
      (m: Model) => m.simple((q, k) => m.op('Add', [scaled(m, q, k), scaled(m, k, q)])),
    ],
    [
      'its scores are scaled by more than one number',
      (m: Model) =>
        m.simple((q, k) => {
          const each = m.b.constant('float32', [1, heads, 1, 1], [1, 2, 3, 4]);
          return m.op('Mul', [scaled(m, q, k), each]);
        }),
    ],
  ])('stays, and says why: %s', (reason, build) => {
    const model = new Model(5);
    const plan = planOf(model.graph(build(model)), 5, true);
    expect(lines(plan)).toEqual([`attention not fused: ${reason}: 1`]);
  });

  const projected = (m: Model) => [m.project('q'), m.project('k', 2), m.project('v', 2)];
  const past = (m: Model, count = heads) =>
    m.b.constant('float32', [batch, count, 1, width], Array(batch * count * width).fill(0.5));
  test.each<[reason: string, build: (m: Model) => string]>([
    [
      'queries, keys and values are interleaved in one input',
      (m) => {
        const qkv = m.op('Reshape', [m.project('qkv', 3 * heads), m.ints(0, 0, heads, 3, width)]);
        return m.op('MultiHeadAttention', [qkv], { num_heads: heads }, 'com.microsoft');
      },
    ],
    [
      'it reads a cache',
      (m) => {
        const operands = ['q', 'k', 'v'].map((name) => m.project(name));
        const inputs = [...operands, undefined, undefined, undefined, past(m), past(m)];
        return m.op('MultiHeadAttention', inputs, { num_heads: heads }, 'com.microsoft');
      },
    ],
    [
      'it reads a cache',
      (m) => {
        const operands = ['q', 'k', 'v'].map((name) => m.project(name));
        const inputs = [...operands, undefined, past(m), past(m)];
        const counts = { q_num_heads: heads, kv_num_heads: heads };
        return m.op('Attention', inputs, counts);
      },
    ],
    [
      'its scores are capped',
      (m) => attentionOperator(m, projected(m), { kv_num_heads: 2, softcap: 20 }),
    ],
    ['it has a local window', (m) => grouped(m, projected(m), undefined, { local_window_size: 2 })],
    ['its scores are capped', (m) => grouped(m, projected(m), undefined, { softcap: 20 })],
    ['its softmax is smoothed', (m) => grouped(m, projected(m), undefined, { smooth_softmax: 1 })],
    [
      'its rotation is interleaved',
      (m) => grouped(m, projected(m), rotaryTables(m, m.length), { rotary_interleaved: 1 }),
    ],
  ])('an operator stays dense under a layout, with its name: %s', (reason, build) => {
    const model = new Model(5);
    const attended = build(model);
    const { sparseAttention } = planTraining(model.graph(attended), {
      inputShapes: { x: [batch, 5, heads * width], present: [batch, 5] },
      // Nothing before the operator, which has no gradient.
      trainable: (name) => name === 'probe',
      attentionBlocks: ({ heads: count }) => ({
        block: 16,
        heads: Array(count).fill(new Uint8Array([1])),
      }),
    });
    const operator = attended.replace(/_out\d*$/, '');
    expect(sparseAttention!.replaced).toEqual([]);
    expect(sparseAttention!.dense).toHaveLength(1);
    expect(sparseAttention!.dense[0]).toContain(`not fused: ${reason}`);
    expect(sparseAttention!.dense[0]).toContain(operator);
  });

  test('a softmax that is no attention is not mentioned', () => {
    const model = new Model(5);
    const gates = model.op('Softmax', [model.project('gate')], { axis: -1 });
    const plan = planOf(model.graph(model.project('out', heads, gates)), 5, true);
    expect(lines(plan)).toEqual([]);
  });
});

/** Shapes of the fused products and of attention, and what their rules refuse. */
import { describe, expect, it } from 'vitest';
import { attribute, type PlainAttribute } from '../attributes.ts';
import type { DataType, Graph } from '../ir.ts';
import { inferTypes } from './infer.ts';

type Input = readonly [dtype: DataType, shape: readonly number[]];

const f = (...shape: number[]): Input => ['float32', shape];
const int64 = (...shape: number[]): Input => ['int64', shape];
const first: Input = ['int32', [1]];

function outputs(
  opType: string,
  inputs: readonly (Input | undefined)[],
  attributes: Record<string, PlainAttribute> = {},
  count = 1,
): (readonly number[])[] {
  const names = inputs.map((input, i) => (input === undefined ? '' : `x${i}`));
  const made = Array.from({ length: count }, (_, i) => `y${i}`);
  const graph: Graph = {
    name: 'single',
    inputs: inputs.flatMap((input, i) =>
      input === undefined ? [] : [{ name: `x${i}`, dtype: input[0], shape: input[1] }],
    ),
    outputs: made.map((name) => ({ name, dtype: 'float32' })),
    initializers: new Map(),
    nodes: [
      {
        name: 'node',
        opType,
        domain: 'deepspeed',
        inputs: names,
        outputs: made,
        attributes: Object.fromEntries(
          Object.entries(attributes).map(([name, value]) => [name, attribute(name, value)]),
        ),
      },
    ],
    valueInfo: new Map(),
  };
  const types = inferTypes(graph);
  return made.map((name) => types.get(name)!.shape);
}

describe('MatMul', () => {
  it('multiplies matrices over leading axes, transposed or not', () => {
    expect(outputs('MatMul', [f(2, 3, 4), f(4, 5)])).toEqual([[2, 3, 5]]);
    expect(outputs('MatMul', [f(2, 4, 3), f(5, 4)], { transA: 1, transB: 1 })).toEqual([[2, 3, 5]]);
    const all = [f(2, 3, 4), f(4, 5), f(2, 3, 4), f(5), f(2, 3, 5), f(2, 3, 5)];
    expect(outputs('MatMul', all)).toEqual([[2, 3, 5]]);
  });

  it.each<[string, (Input | undefined)[], RegExp]>([
    ['vectors', [f(4), f(4, 5)], /takes matrices/],
    ['inner sizes', [f(3, 4), f(5, 4)], /inner dimensions differ: 4 and 5/],
    ['A2', [f(3, 4), f(4, 5), f(3, 5)], /A2 does not have the shape \[3, 4\]/],
    ['bias', [f(3, 4), f(4, 5), undefined, f(4)], /bias does not have the shape \[5\]/],
    ['residual', [f(3, 4), f(4, 5), undefined, undefined, f(5)], /residual does not have/],
    ['Z', [f(3, 4), f(4, 5), undefined, undefined, undefined, f(3, 4)], /Z does not have/],
  ])('refuses other %s', (_, inputs, message) => {
    expect(() => outputs('MatMul', inputs)).toThrow(message);
  });
});

describe('MatMulAccumulate', () => {
  const inputs = [f(2, 3, 4), f(6, 5), f(4, 5), first, undefined, f(5), first];

  it('sums over all leading axes', () => {
    expect(outputs('MatMulAccumulate', inputs)).toEqual([[1]]);
  });

  it('refuses a buffer of another shape', () => {
    expect(() => outputs('MatMulAccumulate', inputs.with(2, f(5, 4)))).toThrow(/buffer does not/);
    expect(() => outputs('MatMulAccumulate', inputs.with(5, f(4)))).toThrow(/bias buffer does not/);
    expect(() => outputs('MatMulAccumulate', [...inputs, f(6, 4)])).toThrow(/B2 does not/);
  });
});

describe('Attention', () => {
  const grouped = { heads: 4, kv_heads: 2, scale: 1 };

  it.each<[string, Input[], number[][]]>([
    [
      'bhsd',
      [f(2, 4, 3, 8), f(2, 2, 5, 8), f(2, 2, 5, 8)],
      [
        [2, 4, 3, 8],
        [2, 4, 3],
      ],
    ],
    [
      'bshd',
      [f(2, 3, 32), f(2, 5, 16), f(2, 5, 16)],
      [
        [2, 3, 32],
        [2, 4, 3],
      ],
    ],
    [
      'packed',
      [f(2, 3, 64)],
      [
        [2, 3, 32],
        [2, 4, 3],
      ],
    ],
  ])('%s', (layout, inputs, expected) => {
    const attributes = { ...grouped, layout };
    expect(outputs('Attention', inputs, attributes, 2)).toEqual(expected);
    const [q, ...others] = inputs as [Input, ...Input[]];
    const operands = others.length === 0 ? [q, undefined, undefined] : [q, ...others];
    const saved = [
      ['float32', expected[0]!],
      ['float32', expected[1]!],
    ] as Input[];
    const backward = [saved[0], ...operands, ...saved];
    const count = others.length === 0 ? 1 : 3;
    const shapes = inputs.map(([, shape]) => shape);
    expect(outputs('AttentionGrad', backward, attributes, count)).toEqual(shapes);
  });

  it.each<[string, (Input | undefined)[], Record<string, PlainAttribute>, RegExp]>([
    ['a layout', [f(2, 3, 32)], { layout: 'bsd' }, /do not fit layout 'bsd' with 4 heads/],
    ['heads', [f(2, 3, 63)], { layout: 'packed' }, /do not fit layout 'packed'/],
    ['groups', [f(2, 3, 64)], { layout: 'packed', kv_heads: 3 }, /do not fit/],
    ['a bias', [f(2, 3, 64), undefined, undefined, f(2, 3)], {}, /bias does not broadcast/],
    [
      'a key mask',
      [f(2, 3, 64), undefined, undefined, undefined, ['bool', [2, 4]]],
      {},
      /keyMask is not \[2, 3\]/,
    ],
    [
      'tables',
      [f(2, 3, 64), undefined, undefined, undefined, undefined, f(3, 8), f(3, 8)],
      {},
      /cos is not \[3, 4\]/,
    ],
  ])('refuses %s that do not fit', (_, inputs, attributes, message) => {
    const given = { ...grouped, layout: 'packed', ...attributes };
    expect(() => outputs('Attention', inputs, given, 2)).toThrow(message);
  });
});

describe('LinearCrossEntropy', () => {
  it('gives a loss and a log-sum-exp per row', () => {
    expect(outputs('LinearCrossEntropy', [f(6, 4), f(9, 4), int64(6)], {}, 2)).toEqual([[6], [6]]);
    const turned = [f(6, 4), f(4, 9), int64(6)];
    expect(outputs('LinearCrossEntropy', turned, { transposed: 1 }, 2)).toEqual([[6], [6]]);
    const backward = [f(6), f(6, 4), f(9, 4), int64(6), f(6), f(9, 4), first];
    expect(outputs('LinearCrossEntropyGrad', backward, {}, 2)).toEqual([[6, 4], [1]]);
    const throughLse =
      (...shape: number[]) =>
      () =>
        outputs('LinearCrossEntropyGrad', [...backward, f(...shape)], {}, 2);
    expect(throughLse(6)()).toEqual([[6, 4], [1]]);
    expect(throughLse(5)).toThrow(/dLse/);
  });

  it('refuses widths and labels that do not fit', () => {
    const run = (inputs: Input[]) => () => outputs('LinearCrossEntropy', inputs, {}, 2);
    expect(run([f(6, 4), f(4, 9), int64(6)])).toThrow(/X and W differ in width/);
    expect(run([f(6, 4), f(9, 4), int64(5)])).toThrow(/not one label per row/);
  });
});

it('the gradients of norms take a residual of X’s shape', () => {
  const norm = [f(3, 4), f(3, 4), f(4), f(3), f(3)];
  expect(outputs('LayerNormalizationGrad', [...norm, f(3, 4)])).toEqual([[3, 4]]);
  expect(() => outputs('LayerNormalizationGrad', [...norm, f(4)])).toThrow(/differ in shape/);
  const root = [f(3, 4), f(3, 4), f(4), f(3)];
  expect(outputs('RMSNormalizationGrad', [...root, f(3, 4)])).toEqual([[3, 4]]);
});

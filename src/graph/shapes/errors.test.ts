import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { PlainAttribute } from '../attributes.ts';
import { GraphBuilder } from '../builder.ts';
import type { DataType, Dim, Graph } from '../ir.ts';
import { fromNumbers, toNumbers } from '../tensor.ts';
import { type InferOptions, inferTypes } from './infer.ts';
import { knownOperators } from './table.ts';

type Input = readonly [dtype: DataType, shape: readonly Dim[]];
const f = (...shape: Dim[]): Input => ['float32', shape];
const i = (...shape: Dim[]): Input => ['int64', shape];

/** One node `op` on inputs x0, x1, ... */
function single(
  op: string,
  inputs: readonly (Input | undefined)[],
  attributes: Record<string, PlainAttribute> = {},
  domain = '',
  outputs = 1,
): Graph {
  const b = new GraphBuilder('g');
  const names = inputs.map((input, k) => input && b.input(`x${k}`, input[0], input[1]));
  const made = b.ops(op, names, outputs, attributes, { domain, name: 'the-node' });
  for (const name of made) b.output(name, 'float32');
  return b.build();
}

const shapes = (graph: Graph, options?: InferOptions) => {
  const types = inferTypes(graph, options);
  return graph.nodes.at(-1)!.outputs.map((name) => [...types.get(name)!.shape]);
};

describe('shape errors name node, operator and shapes', () => {
  it.each<[string, readonly (Input | undefined)[], Record<string, PlainAttribute>, RegExp]>([
    ['MatMul', [f(2, 3), f(4, 5)], {}, /inner dimensions differ: 3 and 4/],
    ['Add', [f(2, 3), f(4)], {}, /do not broadcast/],
    ['Add', [f(2), i(2)], {}, /differ in element type/],
    ['Add', [f(2)], {}, /input 1 is missing/],
    ['Where', [f(2), f(2), f(2)], {}, /condition is not bool/],
    ['Transpose', [f(2, 3)], { perm: [0, 0] }, /perm \[0, 0\] is not a permutation/],
    ['Softmax', [f(2, 3)], { axis: 2 }, /axis 2 does not exist in 2 dimensions/],
    ['Concat', [f(2, 3), f(3, 3)], { axis: 1 }, /differ outside axis 1/],
    ['Squeeze', [f(2, 3)], { axes: [1] }, /axis 1 has 3 elements/],
    ['Unsqueeze', [f(2)], { axes: [0, 0] }, /repeat/],
    ['Split', [f(4)], { split: [1, 2] }, /do not add up to 4/],
    ['LayerNormalization', [f(2, 4), f(3)], {}, /the scale does not fit/],
    ['Gemm', [f(2, 3, 4), f(4, 5)], {}, /Gemm takes matrices/],
    ['Gemm', [f(2, 4), f(4, 5), f(3)], {}, /C does not broadcast to \[2, 5\]/],
    ['SoftmaxCrossEntropyLoss', [f(2, 3), i(3)], {}, /labels do not have the shape/],
  ])('%s %j', (op, inputs, attributes, message) => {
    const graph = single(op, inputs, attributes);
    const listed = /node the-node \(.*\): .*; inputs: x0 (float32|int64)\[/;
    expect(() => inferTypes(graph)).toThrow(message);
    expect(() => inferTypes(graph)).toThrow(listed);
    expect(() => inferTypes(graph)).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }));
  });

  it('says which operand depends on data', () => {
    const graph = single('Reshape', [f(2, 3), i(2)]);
    expect(() => inferTypes(graph)).toThrow(
      /the-node \(Reshape\): its shape, 'x1', depends on data/,
    );
    expect(() => inferTypes(graph)).toThrow(expect.objectContaining({ code: 'SHAPE_UNKNOWN' }));
  });

  it('advises on unknown operators', () => {
    const cases = [
      ['MatMulNBits', 'com.microsoft', /quantised/],
      ['If', '', /control flow/],
      ['NonMaxSuppression', '', /plain ONNX operators/],
      ['constructor', '', /plain ONNX operators/],
    ] as const;
    for (const [op, domain, fix] of cases) {
      const graph = single(op, [f(2)], {}, domain);
      expect(() => inferTypes(graph)).toThrow(
        expect.objectContaining({ code: 'OPERATOR_UNKNOWN', fix: expect.stringMatching(fix) }),
      );
      expect(() => inferTypes(graph)).toThrow(new RegExp(`the-node .*${op}`));
    }
  });

  it('refuses outputs that the operator does not have', () => {
    expect(() => inferTypes(single('Relu', [f(2)], {}, '', 2))).toThrow(/2 outputs; .* makes 1/);
  });

  it('refuses an attribute of the wrong type', () => {
    expect(() => inferTypes(single('Softmax', [f(2)], { axis: 'last' }))).toThrow(/axis .* string/);
  });
});

describe('symbols', () => {
  const pair = (a: readonly Dim[], b: readonly Dim[]) => single('MatMul', [f(...a), f(...b)]);

  it('are bound by given inputs and used for the others', () => {
    expect(shapes(pair(['n', 4], [4, 'n']), { inputs: { x0: [3, 4] } })).toEqual([[3, 3]]);
    expect(shapes(pair(['n', 4], [4, 'm']), { symbols: { n: 0, m: 5 } })).toEqual([[0, 5]]);
  });

  it('must mean one number', () => {
    const graph = pair(['n', 4], [4, 'n']);
    expect(() => inferTypes(graph, { inputs: { x0: [3, 4], x1: [4, 5] } })).toThrow(
      "'n' is 3 in axis 0 of input 'x0' and 5 in axis 1 of input 'x1'",
    );
    expect(() => inferTypes(graph, { inputs: { x0: [3, 4] }, symbols: { n: 2 } })).toThrow(
      "'n' is 2 in the given symbols and 3 in axis 0 of input 'x0'",
    );
  });

  it('that are unnamed need a shape each', () => {
    expect(shapes(pair(['', 4], [4, '']), { inputs: { x0: [1, 4], x1: [4, 2] } })).toEqual([
      [1, 2],
    ]);
    expect(() => inferTypes(pair(['', 4], [4, 2]))).toThrow(/'x0' .*axis 0 has no name/);
    expect(() => inferTypes(pair(['n', 4], [4, 2]))).toThrow(/'n' has no value/);
  });

  it('checks what is given', () => {
    const graph = pair(['n', 4], [4, 'n']);
    expect(() => inferTypes(graph, { inputs: { y: [1] } })).toThrow(/'y'; .* are: x0, x1/);
    expect(() => inferTypes(graph, { inputs: { x0: [3] } })).toThrow(/has 2 dimensions, \[n, 4\]/);
    expect(() => inferTypes(graph, { inputs: { x0: [3, 5] } })).toThrow(
      /axis 1 .* is 4 and is given 5/,
    );
    expect(() => inferTypes(graph, { inputs: { x0: [-1, 4] } })).toThrow(/not a shape/);
  });
});

describe('constants', () => {
  it('of a variable are unknown, whatever is computed from it', () => {
    const b = new GraphBuilder('g');
    const w = b.initializer('w', fromNumbers('float32', [2], [1, 2]));
    const y = b.op('Neg', [w]);
    b.output(y, 'float32');
    const graph = b.build();
    expect(toNumbers(inferTypes(graph).get(y)!.constant!)).toEqual([-1, -2]);
    const types = inferTypes(graph, { variables: new Set(['w']) });
    expect([types.get(w)!.constant, types.get(y)!.constant]).toEqual([undefined, undefined]);
    expect(inferTypes(graph, { maxElements: 1 }).get(y)!.constant).toBeUndefined();
  });

  it('that a double cannot hold are left to the runtime', () => {
    const b = new GraphBuilder('g');
    const large = b.initializer('large', {
      dtype: 'int64',
      dims: [1],
      data: new Uint8Array(BigInt64Array.of(2n ** 53n + 1n).buffer),
    });
    const y = b.op('Identity', [large]);
    b.output(y, 'int64');
    expect(inferTypes(b.build()).get(y)!.constant).toBeUndefined();
  });
});

describe('deepspeed operators', () => {
  const [x, d] = [f(2, 3, 4), f(4)];
  const rows = f(2, 3);
  const labels = i(2, 3);
  const first: Input = ['int32', [1]];
  const training: Input = ['bool', [1]];
  it.each<[string, readonly (Input | undefined)[], number[][]]>([
    ['Accumulate', [x, x, first], [[1]]],
    ['EmbeddingGradAccumulate', [x, labels, f(9, 4), first], [[1]]],
    ['Gelu', [x], [[2, 3, 4]]],
    ['GeluGrad', [x, x], [[2, 3, 4]]],
    ['Silu', [x], [[2, 3, 4]]],
    ['SiluGrad', [x, x], [[2, 3, 4]]],
    ['SiluMul', [x, x], [[2, 3, 4]]],
    [
      'SiluMulGrad',
      [x, x, x],
      [
        [2, 3, 4],
        [2, 3, 4],
      ],
    ],
    [
      'LayerNormalization',
      [x, d, d],
      [
        [2, 3, 4],
        [2, 3],
        [2, 3],
      ],
    ],
    [
      'LayerNormalization',
      [x, d, undefined],
      [
        [2, 3, 4],
        [2, 3],
        [2, 3],
      ],
    ],
    ['LayerNormalizationGrad', [x, x, d, rows, rows], [[2, 3, 4], [4], [4]]],
    [
      'RMSNormalization',
      [x, d],
      [
        [2, 3, 4],
        [2, 3],
      ],
    ],
    ['RMSNormalizationGrad', [x, x, d, rows], [[2, 3, 4], [4]]],
    ['SoftmaxGrad', [x, x], [[2, 3, 4]]],
    [
      'SoftmaxCrossEntropy',
      [x, labels],
      [
        [2, 3],
        [2, 3],
      ],
    ],
    ['SoftmaxCrossEntropyGrad', [rows, x, labels, rows], [[2, 3, 4]]],
    ['Dropout', [x, i(4), training], [[2, 3, 4]]],
    ['DropoutGrad', [x, i(4), training], [[2, 3, 4]]],
    ['DropoutMask', [i(4)], [[2, 1, 1, 1]]],
    ['RotaryEmbedding', [f(2, 5, 3, 4), f(3, 2), f(3, 2)], [[2, 5, 3, 4]]],
  ])('%s', (op, inputs, expected) => {
    expect(shapes(single(op, inputs, {}, 'deepspeed', expected.length))).toEqual(expected);
  });

  it.each<[string, readonly Input[], RegExp]>([
    ['Accumulate', [x, d, first], /inputs 0 and 1 differ in shape/],
    ['LayerNormalization', [x, f(3)], /input 1 does not have the length of the last axis/],
    ['SoftmaxCrossEntropy', [x, i(2)], /not one label per row/],
    ['Dropout', [x, i(3), training], /rng does not hold 2 \+ 2/],
    ['RotaryEmbedding', [f(2, 5, 3, 4), f(3, 4), f(3, 4)], /cos and sin are not/],
  ])('%s refuses', (op, inputs, message) => {
    expect(() => inferTypes(single(op, inputs, {}, 'deepspeed'))).toThrow(message);
  });
});

it('docs/operators.md lists the operators of ai.onnx and com.microsoft', () => {
  const docs = readFileSync(new URL('../../../docs/operators.md', import.meta.url), 'utf8');
  for (const [domain, title] of [
    ['', 'ai.onnx'],
    ['com.microsoft', 'com.microsoft'],
  ] as const) {
    const line = docs.split('\n').find((text) => text.startsWith(`**${title}**: `))!;
    const listed = line
      .slice(line.indexOf(': ') + 2)
      .replace(/\.$/, '')
      .split(', ');
    expect(listed).toEqual(knownOperators.get(domain));
  }
});

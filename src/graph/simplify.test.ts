import { describe, expect, it } from 'vitest';
import { GraphBuilder } from './builder.ts';
import { foldConstants } from './fold.ts';
import type { Graph } from './ir.ts';
import { printGraph } from './print.ts';
import { inferTypes } from './shapes/infer.ts';
import { simplify } from './simplify.ts';
import { fromNumbers, toNumbers } from './tensor.ts';
import { randomTensor, run } from './testing.ts';

/** Attention scores as an exporter writes them: shapes taken apart, masks built, the same twice. */
function exported(): Graph {
  const b = new GraphBuilder('exported');
  const x = b.input('x', 'float32', ['batch', 'length', 8]);
  const w = b.initializer(
    'w',
    fromNumbers(
      'float32',
      [8, 8],
      Array.from({ length: 64 }, (_, i) => i / 64),
    ),
  );
  const index = (i: number) => b.constant('int64', [], [i]);
  const axes = (i: number) => b.constant('int64', [1], [i]);
  const dim = (i: number) =>
    b.op('Unsqueeze', [b.op('Gather', [b.op('Shape', [x]), index(i)]), axes(0)]);
  const heads = (value: string) => {
    const shape = b.op('Concat', [dim(0), dim(1), axes(2), axes(4)], { axis: 0 });
    return b.op('Transpose', [b.op('Reshape', [value, shape])], { perm: [0, 2, 1, 3] });
  };
  const q = heads(b.op('Identity', [b.op('MatMul', [b.op('Cast', [x], { to: 1 }), w])]));
  const k = heads(b.op('MatMul', [b.op('Dropout', [x]), w]));
  const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 1, 3, 2] })]);
  const square = b.op('Concat', [dim(1), dim(1)], { axis: 0 });
  const ones = b.op('ConstantOfShape', [square], { value: fromNumbers('float32', [1], [1]) });
  const mask = b.op('Mul', [b.op('Trilu', [ones, index(1)]), b.constant('float32', [], [-1e9])]);
  b.op('Neg', [scores]);
  const y = b.op('Softmax', [b.op('Add', [scores, mask])], { axis: -1 }, { output: 'y' });
  b.output(y, 'float32', ['batch', 2, 'length', 'length']);
  return b.build();
}

const inputs = { x: [2, 5, 8] };

describe('folding and simplifying', () => {
  it('changes no result, and leaves the arithmetic that matters', async () => {
    const graph = exported();
    const folded = foldConstants(graph, { inputs });
    const simple = simplify(folded, { types: inferTypes(folded, { inputs }), inference: true });
    expect(simple.nodes.map((node) => node.opType)).toEqual([
      'MatMul',
      'Reshape',
      'Transpose',
      'Transpose',
      'MatMul',
      'Add',
      'Softmax',
    ]);
    const feeds = { x: randomTensor({ dtype: 'float32', shape: inputs.x }, 1) };
    const [before, after] = [await run(graph, feeds), await run(simple, feeds)];
    expect(toNumbers(after.y!)).toEqual(toNumbers(before.y!));
  });

  it('folds no variable and nothing that is too large', () => {
    const b = new GraphBuilder('g');
    const w = b.initializer('w', fromNumbers('float32', [2], [1, 2]));
    b.output(
      b.op('Add', [b.op('Neg', [w], {}, { output: 'n' }), w], {}, { output: 'y' }),
      'float32',
    );
    const graph = b.build();
    expect(foldConstants(graph, { variables: new Set(['w']) })).toEqual(graph);
    expect(foldConstants(graph, { maxBytes: 7 }).nodes.length).toBe(2);
    const folded = foldConstants(graph);
    expect(folded.nodes).toEqual([]);
    expect(toNumbers(folded.initializers.get('y')!)).toEqual([0, 0]);
    expect([...simplify(folded).initializers.keys()]).toEqual(['y']);
  });

  it('keeps what only looks like a no-op', () => {
    const b = new GraphBuilder('g');
    const x = b.input('x', 'float32', [2, 2]);
    const list = (...values: number[]) => b.constant('int64', [values.length], values);
    const kept = [
      b.op('Slice', [x, list(-1), list(-3), list(0), list(-1)]),
      b.op('Transpose', [x]),
      b.op('Dropout', [x]),
      b.op('Cast', [x], { to: 11 }),
      b.op('RandomNormalLike', [x]),
      b.op('RandomNormalLike', [x]),
      b.op('Identity', [x]),
      ...b.ops('Dropout', [x], 2),
    ];
    for (const name of kept) b.output(name, 'float32');
    const graph = b.build();
    expect(simplify(graph, { types: inferTypes(graph), inference: true }).nodes).toEqual(
      graph.nodes,
    );
  });

  it('merges equal nodes and constants, and no parameters', () => {
    const b = new GraphBuilder('g');
    const x = b.input('x', 'float32', [4]);
    const zeros = ['a', 'b'].map((name) =>
      b.initializer(name, fromNumbers('float32', [4], [0, 0, 0, 0])),
    );
    const axes = ['c', 'd'].map((name) => b.initializer(name, fromNumbers('int64', [1], [0])));
    const sums = zeros.map((bias) => b.op('Add', [x, bias]));
    const wide = axes.map((axis) => b.op('Unsqueeze', [b.op('Neg', [x]), axis]));
    b.output(b.op('Sum', [...sums, ...wide], {}, { output: 'y' }), 'float32');
    const simple = simplify(b.build());
    expect([...simple.initializers.keys()]).toEqual(['a', 'b', 'c']);
    expect(simple.nodes.map((node) => node.opType)).toEqual([
      'Add',
      'Add',
      'Neg',
      'Unsqueeze',
      'Sum',
    ]);
    expect(simple.nodes.at(-1)!.inputs).toEqual(['Add', 'Add_1', 'Unsqueeze', 'Unsqueeze']);
  });
});

describe('printGraph', () => {
  it('writes one line per value', () => {
    const b = new GraphBuilder('mlp');
    const x = b.input('x', 'float32', ['batch', '', 4]);
    const limit = b.constant('float32', [], [0.5]);
    b.output(b.op('Clip', [x, undefined, limit], {}, { output: 'y' }), 'float32');
    b.ops('Dropout', ['y'], 2, { seed: 1 }, { domain: 'test' });
    const graph = b.build();
    const types = new Map([['y', { dtype: 'float32', shape: [2, 3, 4] } as const]]);
    expect(printGraph(graph, types)).toBe(
      [
        'graph mlp',
        '  input x: float32[batch, ?, 4]',
        '  const const.float32.0.5: float32[] = [0.5]',
        '  y = Clip(x, _, const.float32.0.5)  # float32[2, 3, 4]',
        '  Dropout, Dropout.1 = test.Dropout(y) {seed: 1}',
        '  output y: float32[...]',
      ].join('\n'),
    );
  });
});

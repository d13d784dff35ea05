import { describe, expect, it } from 'vitest';
import { GraphBuilder } from './builder.ts';
import { fromNumbers, toNumbers } from './tensor.ts';

describe('GraphBuilder', () => {
  it('names values readably and uniquely', () => {
    const b = new GraphBuilder('g');
    const x = b.input('x', 'float32', ['n', 4]);
    const names = b.segment('h.0', () => [b.op('Relu', [x]), b.op('Relu', [x])]);
    names.push(b.op('Relu', [x]), b.op('Relu', [x], {}, { name: 'h.0/Relu_1' }));
    names.push(...b.ops('Split', [x], 2, { num_outputs: 2 }));
    expect(new Set(names).size).toBe(names.length);
    expect(names.slice(0, 3)).toEqual(['h.0/Relu', 'h.0/Relu_1', 'Relu']);
    b.output(names[0]!, 'float32');
    const graph = b.build();
    expect(graph.nodes.map((node) => node.metadata?.segment)).toEqual([
      'h.0',
      'h.0',
      undefined,
      undefined,
      undefined,
    ]);
    expect(new Set(graph.nodes.map((node) => node.name)).size).toBe(graph.nodes.length);
  });

  it('keeps one constant per type, shape and values', () => {
    const b = new GraphBuilder('g');
    const axes = b.constant('int64', [2], [0, -1]);
    expect(axes).toBe('const.int64.[0,-1]');
    expect(b.constant('int64', [2], [0, -1])).toBe(axes);
    const others = [
      b.constant('int32', [2], [0, -1]),
      b.constant('int64', [1, 2], [0, -1]),
      b.constant('float32', [], [0]),
      b.constant('float32', [], [-0]),
      b.constant('float32', [1], [0]),
    ];
    expect(new Set([axes, ...others]).size).toBe(6);
    b.output(b.op('Identity', [axes]), 'int64');
    expect(toNumbers(b.build().initializers.get(axes)!)).toEqual([0, -1]);
  });

  it('types attributes by their ONNX name', () => {
    const b = new GraphBuilder('g');
    const x = b.input('x', 'float32', [2]);
    b.output(
      b.op('Made', [x, undefined, x], {
        alpha: 1,
        axis: -1,
        perm: [1, 0],
        mode: 'linear',
        value: fromNumbers('int64', [1], [3]),
        keys: ['a', 'b'],
      }),
      'float32',
    );
    const [node] = b.build().nodes;
    expect(node!.inputs).toEqual(['x', '', 'x']);
    expect(node!.attributes).toMatchObject({
      alpha: { type: 'float', value: 1 },
      axis: { type: 'int', value: -1 },
      perm: { type: 'ints', value: [1, 0] },
      mode: { type: 'string', value: 'linear' },
      value: { type: 'tensor' },
      keys: { type: 'strings', value: ['a', 'b'] },
    });
  });

  it('refuses what cannot be a graph', () => {
    const b = new GraphBuilder('g');
    b.input('x', 'float32', [2]);
    expect(() => b.input('x', 'float32', [2])).toThrow(/two values are called 'x'/);
    expect(() => b.op('Relu', ['y'])).toThrow(/Relu reads 'y'/);
    expect(() => b.op('Relu', ['x'], { axis: 0.5 })).toThrow(/axis is an int/);
    expect(() => b.op('Relu', ['x'], {}, { output: 'x' })).toThrow(/two values/);
    expect(() => b.output('nowhere', 'float32')).toThrow(/not a value/);
    expect(() => b.build()).toThrow(/no output/);
  });
});

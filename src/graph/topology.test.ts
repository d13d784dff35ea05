import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from './builder.ts';
import type { Graph } from './ir.ts';
import {
  consumersOf,
  freeValues,
  producersOf,
  readsOf,
  sortNodes,
  valuesLeadingTo,
  valuesReachableFrom,
} from './topology.ts';

/** x -> a -> c <- b <- w, and d <- b */
function diamond(): Graph {
  const b = new GraphBuilder('diamond');
  const [x, w] = [b.input('x', 'float32', [1]), b.input('w', 'float32', [1])];
  b.op('A', [x], {}, { output: 'a' });
  b.op('B', [w], {}, { output: 'b' });
  b.op('C', ['a', 'b', 'b'], {}, { output: 'c' });
  b.op('D', ['b'], {}, { output: 'd' });
  b.output('c', 'float32');
  return b.build();
}

describe('topology', () => {
  it('indexes producers and consumers', () => {
    const graph = diamond();
    expect(producersOf(graph).get('b')!.opType).toBe('B');
    expect(producersOf(graph).has('x')).toBe(false);
    expect(
      consumersOf(graph)
        .get('b')!
        .map((node) => node.opType),
    ).toEqual(['C', 'D']);
    expect(consumersOf(graph).has('c')).toBe(false);
  });

  it('walks both ways', () => {
    const graph = diamond();
    expect([...valuesReachableFrom(graph, ['w'])].sort()).toEqual(['b', 'c', 'd', 'w']);
    expect([...valuesLeadingTo(graph, ['c'])].sort()).toEqual(['a', 'b', 'c', 'w', 'x']);
  });

  it('sees what subgraphs read', () => {
    const inner = new GraphBuilder('inner');
    inner.input('own', 'float32', [1]);
    inner.output(inner.op('Add', ['own', 'own'], {}, { output: 'sum' }), 'float32');
    const body = inner.build();
    body.nodes[0]!.inputs[1] = 'outer';
    expect(freeValues(body)).toEqual(['outer']);
    const b = new GraphBuilder('g');
    const x = b.input('x', 'float32', [1]);
    b.output(b.op('Loop', [x, undefined], { body }), 'float32');
    expect(readsOf(b.build().nodes[0]!)).toEqual(['x', 'outer']);
  });

  it('sorts any order, and keeps a good one', () => {
    const chain = new GraphBuilder('chain');
    let value = chain.input('x', 'float32', [1]);
    const early = value;
    for (let i = 0; i < 30; i++) value = chain.op('N', i % 3 === 0 ? [value, early] : [value]);
    chain.output(value, 'float32');
    const graph = chain.build();
    expect(sortNodes(graph)).toEqual(graph.nodes);
    fc.assert(
      fc.property(fc.shuffledSubarray(graph.nodes, { minLength: 30 }), (nodes) => {
        expect(sortNodes({ ...graph, nodes }).map((node) => node.name)).toEqual(
          graph.nodes.map((node) => node.name),
        );
      }),
    );
  });

  it('sorts a chain that is deeper than the call stack', () => {
    const b = new GraphBuilder('deep');
    let value = b.input('x', 'float32', [1]);
    for (let i = 0; i < 20_000; i++) value = b.op('N', [value]);
    b.output(value, 'float32');
    const graph = b.build();
    const nodes = graph.nodes.toReversed();
    expect(sortNodes({ ...graph, nodes })[0]).toBe(graph.nodes[0]);
  });

  it('shows a cycle', () => {
    const graph = diamond();
    graph.nodes[1]!.inputs[0] = 'c';
    expect(() => sortNodes(graph)).toThrow(/cycle: (B \(B\) -> C|C \(C\) -> B).*/);
  });
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { broadcastShapes, Emitter } from '../emitter.ts';
import type { Graph, ValueType } from '../ir.ts';
import { numel, toNumbers } from '../tensor.ts';
import { randomTensor, relativeError, run } from '../testing.ts';
import { unbroadcast } from './unbroadcast.ts';

/** Adds each element of a gradient to the element of `shape` that was stretched to its place. */
function summedBack(values: readonly number[], from: readonly number[], shape: readonly number[]) {
  const sums = new Array<number>(numel(shape)).fill(0);
  values.forEach((value, flat) => {
    let rest = flat;
    let target = 0;
    let stride = 1;
    for (let axis = 1; axis <= from.length; axis++) {
      const dim = from.at(-axis)!;
      const position = rest % dim;
      rest = (rest - position) / dim;
      if (axis > shape.length) continue;
      target += (shape.at(-axis) === 1 ? 0 : position) * stride;
      stride *= shape.at(-axis)!;
    }
    sums[target]! += value;
  });
  return sums;
}

const shapes = fc
  .array(fc.integer({ min: 1, max: 3 }), { maxLength: 4 })
  .chain((full) =>
    fc.tuple(
      fc.constant(full),
      fc.integer({ min: 0, max: full.length }),
      fc.array(fc.boolean(), { minLength: full.length, maxLength: full.length }),
    ),
  )
  .map(([full, dropped, ones]) => ({
    full,
    shape: full.map((dim, i) => (ones[i] ? 1 : dim)).slice(dropped),
  }));

test('a gradient is summed over exactly the stretched axes', async () => {
  await fc.assert(
    fc.asyncProperty(shapes, async ({ full, shape }) => {
      expect(broadcastShapes(full, shape)).toEqual(full);
      const type: ValueType = { dtype: 'float64', shape: full };
      const emit = new Emitter(new Map([['g', type]]), 'e/');
      const result = unbroadcast(emit, 'g', shape);
      expect(emit.shape(result)).toEqual(shape);
      if (result === 'g') {
        expect(shape).toEqual(full);
        return;
      }
      const graph: Graph = {
        name: 'sum',
        inputs: [{ name: 'g', ...type }],
        outputs: [{ name: result, dtype: 'float64', shape }],
        initializers: emit.constants,
        nodes: emit.nodes,
        valueInfo: new Map(),
      };
      const g = randomTensor(type, 3);
      const sums = (await run(graph, { g }))[result]!;
      expect(sums.dims).toEqual(shape);
      const expected = summedBack(toNumbers(g), full, shape);
      expect(relativeError(toNumbers(sums), expected)).toBeLessThan(1e-13);
    }),
    { numRuns: 60 },
  );
});

/** Models as users export them, from PyTorch through the whole room and against ONNX Runtime. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { foldConstants } from './fold.ts';
import type { Graph, Model } from './ir.ts';
import { loadModel } from './load.ts';
import { inferTypes } from './shapes/infer.ts';
import { simplify } from './simplify.ts';
import { fromNumbers, toNumbers } from './tensor.ts';
import { run, type Values } from './testing.ts';

const golden = (name: string): Promise<Model> =>
  loadModel(fileURLToPath(new URL(`../../goldens/onnx/${name}-export.onnx`, import.meta.url)));

/** Token ids of [batch, length] and a mask that hides the last token of the first row. */
function feedsFor(batch: number, length: number): Values {
  const count = batch * length;
  const ids = Array.from({ length: count }, (_, i) => (i * 7) % 11);
  const mask = Array.from({ length: count }, (_, i) => (i === length - 1 && length > 1 ? 0 : 1));
  return {
    ids: fromNumbers('int64', [batch, length], ids),
    mask: fromNumbers('int64', [batch, length], mask),
  };
}

/** The same graph with every inner value as an output. */
function exposed(graph: Graph, types: ReturnType<typeof inferTypes>): Graph {
  const names = graph.nodes.flatMap((node) => node.outputs.filter((output) => output !== ''));
  return { ...graph, outputs: names.map((name) => ({ name, dtype: types.get(name)!.dtype })) };
}

describe.each(['gpt2', 'llama', 'bert'])('%s exported by torch.onnx', (name) => {
  it.each([
    [2, 5],
    [1, 1],
    [3, 16],
  ])('every value of a [%i, %i] batch has the inferred type', async (batch, length) => {
    const { graph, opsets } = await golden(name);
    const feeds = feedsFor(batch, length);
    const types = inferTypes(graph, { inputs: { ids: [batch, length], mask: [batch, length] } });
    const results = await run(exposed(graph, types), feeds, opsets.get(''));
    for (const [value, real] of Object.entries(results)) {
      const { dtype, shape, constant } = types.get(value)!;
      const inferred = { value, dtype, shape };
      expect(inferred).toEqual({ value, dtype: real.dtype, shape: [...real.dims] });
      if (constant === undefined || dtype.includes('float')) continue;
      expect([value, ...toNumbers(constant)]).toEqual([value, ...toNumbers(real)]);
    }
  });

  it('gives the same result folded and simplified, with no shape arithmetic left', async () => {
    const { graph, opsets } = await golden(name);
    const inputs = { ids: [2, 5], mask: [2, 5] };
    const variables = new Set(
      [...graph.initializers]
        .filter(([, tensor]) => tensor.dtype === 'float32' && tensor.dims.length > 0)
        .map(([initializer]) => initializer),
    );
    const folded = foldConstants(graph, { inputs, variables });
    const types = inferTypes(folded, { inputs, variables });
    const simple = simplify(folded, { types, variables, inference: true });
    const left = new Set(simple.nodes.map((node) => node.opType));
    for (const op of ['Shape', 'ConstantOfShape', 'Range', 'Constant', 'Identity']) {
      expect([...left]).not.toContain(op);
    }
    expect(simple.nodes.length).toBeLessThan(graph.nodes.length / 2);
    const [before, after] = [
      await run(graph, feedsFor(2, 5), opsets.get('')),
      await run(simple, feedsFor(2, 5), opsets.get('')),
    ];
    const expected = toNumbers(before.y!);
    // Only constants of cos, sin and their like may differ in the last place.
    for (const [i, value] of toNumbers(after.y!).entries()) {
      expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(
        1e-5 * Math.max(1, Math.abs(value)),
      );
    }
  });
});

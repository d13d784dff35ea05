import { expect, test } from 'vitest';
import { GraphBuilder } from '../builder.ts';
import { inferTypes } from '../shapes/infer.ts';
import { differentiate } from './index.ts';
import {
  type RecomputePolicy,
  recomputeCheap,
  recomputeDefault,
  recomputeNothing,
} from './recompute.ts';

/** y = tanh(x + bias) · reshape(w): backward reads tanh's result and the reshaped parameter. */
function differentiated(policy: RecomputePolicy) {
  const b = new GraphBuilder('small');
  const x = b.input('x', 'float32', [4, 3]);
  const w = b.input('w', 'float32', [3, 1]);
  const shifted = b.op('Add', [x, b.constant('float32', [3], [1, 2, 3])]);
  const squared = b.op('Mul', [shifted, shifted], {}, { output: 'squared' });
  const gate = b.op('Tanh', [squared], {}, { output: 'gate' });
  const row = b.op('Reshape', [w, b.constant('int64', [2], [1, 3])], {}, { output: 'row' });
  b.output(b.op('Mul', [gate, row], {}, { output: 'y' }), 'float32', [4, 3]);
  const graph = b.build();
  return differentiate(
    { graph, types: inferTypes(graph) },
    {
      parameters: ['w'],
      activations: ['x'],
      outputGradients: new Map([['y', ['grad.y']]]),
      policy,
    },
  );
}

test('views and cheap arithmetic on what is at hand are computed again', () => {
  const { saved, savedBytes, sparedBytes, forward, backward } = differentiated(recomputeCheap);
  expect(saved).toEqual(['gate']);
  expect(savedBytes).toBe(4 * 3 * 4);
  expect(sparedBytes).toBe(4 * 3 * 4);
  expect(forward.outputs.map(({ name }) => name)).toEqual(['y', 'gate']);
  const inputs = backward!.graph.inputs.map(({ name }) => name);
  expect(inputs).toEqual(['grad.y', 'x', 'w', 'gate', 'gradient_buffer.w', 'first.w']);
});

test('without recomputation only views are', () => {
  const { saved, sparedBytes } = differentiated(recomputeNothing);
  expect(saved).toHaveLength(2);
  expect(saved).toContain('gate');
  expect(saved).not.toContain('row');
  expect(sparedBytes).toBe(0);
});

test.each([
  { width: 2, saved: [] as string[] },
  { width: 3, saved: ['narrow'] },
])('a product that leaves $width of 6 columns is kept: $saved', ({ width, saved }) => {
  const b = new GraphBuilder('narrowing');
  const x = b.input('x', 'float32', [4, 6]);
  const w = b.input('w', 'float32', [6, width]);
  const narrow = b.op('MatMul', [x, w], {}, { output: 'narrow' });
  b.output(b.op('Exp', [b.op('Mul', [narrow, narrow])], {}, { output: 'y' }), 'float32', [
    4,
    width,
  ]);
  const graph = b.build();
  const made = differentiate(
    { graph, types: inferTypes(graph) },
    {
      parameters: ['w'],
      activations: ['x'],
      outputGradients: new Map([['y', ['grad.y']]]),
      policy: recomputeDefault,
    },
  );
  expect(made.saved.filter((name) => name !== 'y')).toEqual(saved);
});

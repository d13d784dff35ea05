/** Which parameters passes take in 16 bits, and what becomes of those that a node cannot. */
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from './builder.ts';
import type { Graph } from './ir.ts';
import { narrowParameters, readIn16Bits } from './narrow.ts';
import { operatorKey } from './operator-key.ts';
import { planTraining, type TrainingPlan } from './plan.ts';
import { randomTensor } from './testing.ts';

const [vocabulary, width] = [11, 8];

/** A table, a gain, a product and a head; the head reads the table again where `tied`. */
function model(tied: boolean, extra = false): Graph {
  const b = new GraphBuilder('model');
  const ids = b.input('ids', 'int64', [6]);
  const labels = b.input('labels', 'int64', [6]);
  let seed = 1;
  const parameter = (name: string, shape: number[]) =>
    b.initializer(name, randomTensor({ dtype: 'float32', shape }, seed++));
  const table = parameter('table', [vocabulary, width]);
  const weight = parameter('weight', [width, width]);
  const x = b.segment('embed', () => b.op('Gather', [table, ids]));
  const y = b.segment('layer', () => {
    const normal = b.op('RMSNormalization', [x, parameter('gain', [width])], { axis: -1 });
    return b.op('MatMul', [normal, extra ? b.op('Add', [weight, weight]) : weight]);
  });
  b.segment('head', () => {
    const columns = tied
      ? b.op('Transpose', [table], { perm: [1, 0] })
      : parameter('head', [width, vocabulary]);
    const losses = b.op('SoftmaxCrossEntropyLoss', [b.op('MatMul', [y, columns]), labels], {
      reduction: 'none',
    });
    b.output(b.op('ReduceSum', [losses], { keepdims: 0 }, { output: 'loss' }), 'float32');
  });
  return b.build();
}

const plan = (graph: Graph, maxLogitsBytes = 2 ** 29) =>
  planTraining(graph, { inputShapes: {}, trainable: () => true, maxLogitsBytes });

/** Operators that read a parameter in 16 bits, and in fp32, in all graphs of a plan. */
function readers({ programs, segments }: TrainingPlan, parameter: string) {
  const found = { narrow: new Set<string>(), widened: new Set<string>() };
  for (const { program, forward, backward, inference } of segments) {
    const graphs = programs.get(program)!;
    for (const [graph, binding] of [
      [graphs.forward, forward],
      [graphs.backward, backward],
      [graphs.inference, inference],
    ] as const) {
      for (const { formal, actual, dtype } of binding?.inputs ?? []) {
        if (actual !== parameter) continue;
        expect(graph!.inputs.find(({ name }) => name === formal)!.dtype).toBe(dtype);
        for (const node of graph!.nodes) {
          if (!node.inputs.includes(formal)) continue;
          found[dtype === 'float32' ? 'widened' : 'narrow'].add(operatorKey(node));
        }
      }
    }
  }
  return found;
}

describe('what a plan takes in 16 bits', () => {
  it('are factors of products and rows that are looked up', () => {
    expect(narrowParameters(plan(model(false)))).toEqual(new Set(['table', 'weight', 'head']));
    expect(narrowParameters(plan(model(true)))).toEqual(new Set(['table', 'weight']));
  });

  it('is not what any pass reads otherwise', () => {
    expect(narrowParameters(plan(model(false, true)))).toEqual(new Set(['table', 'head']));
  });

  it('is read as it is by each operator', () => {
    const given = plan(model(true), 0);
    const narrow = readIn16Bits(given, narrowParameters(given), 'bfloat16');
    expect(readers(narrow, 'table')).toEqual({
      // Evaluation keeps the logits: a product.
      narrow: new Set([
        'Gather',
        'deepspeed.MatMul',
        'deepspeed.LinearCrossEntropy',
        'deepspeed.LinearCrossEntropyGrad',
      ]),
      widened: new Set(),
    });
    expect(readers(narrow, 'weight').narrow).toEqual(new Set(['deepspeed.MatMul']));
    expect(readers(narrow, 'gain').narrow).toEqual(new Set());
    // The plan that was given is as it was.
    expect(readers(given, 'table').narrow).toEqual(new Set());
  });

  it('is widened before a node that cannot', () => {
    const given = plan(model(false, true));
    const narrow = readIn16Bits(given, new Set(['weight']), 'float16');
    expect(readers(narrow, 'weight').narrow).toEqual(new Set(['Cast']));
  });
});

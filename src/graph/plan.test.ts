/** Plans of a small decoder: however it is cut and fused, the gradients are those of the whole graph. */
import { describe, expect, test } from 'vitest';
import { DeepSpeedError } from '../errors.ts';
import { GraphBuilder } from './builder.ts';
import type { Graph, Tensor } from './ir.ts';
import { type PlanOptions, planTraining, type TrainingPlan } from './plan.ts';
import { inferOnce, trainOnce } from './testing/plan-runner.ts';
import { fromNumbers, toNumbers } from './tensor.ts';
import { centralDifferences, load, randomTensor, relativeError, type Values } from './testing.ts';

const batch = 2;
const length = 4;
const width = 6;
const vocabulary = 9;

interface Model {
  layers?: number;
  /** Nodes carry metadata.segment. */
  labelled?: boolean;
  dropout?: boolean;
  /** Every layer also reads the first embedding. */
  carried?: boolean;
  /** An operator without a gradient rule sits in layer 0. */
  unknown?: boolean;
}

/** Pre-norm layers of attention without heads and a SiLU product; embeddings are tied. float64. */
function decoder(options: Model = {}): Graph {
  const b = new GraphBuilder('decoder');
  const ids = b.input('ids', 'int64', ['batch', 'length']);
  const labels = b.input('labels', 'int64', ['batch', 'length']);
  let seed = 1;
  const parameter = (name: string, shape: number[]) =>
    b.initializer(name, randomTensor({ dtype: 'float64', shape }, seed++));
  const scope = <T>(name: string, make: () => T) =>
    options.labelled === false ? make() : b.segment(name, make);
  const drop = (x: string) =>
    options.dropout
      ? b.op('Dropout', [x, b.constant('float64', [], [0.5]), b.constant('bool', [], [1])])
      : x;

  const sequence = b.op('Gather', [b.op('Shape', [ids]), b.constant('int64', [], [1])]);
  const [zero, one] = [b.constant('int64', [], [0]), b.constant('int64', [], [1])];
  const places = b.op('Range', [zero, sequence, one]);
  const column = b.op('Unsqueeze', [places, b.constant('int64', [1], [1])]);
  const mask = b.op('Where', [
    b.op('LessOrEqual', [places, column]),
    b.constant('float64', [], [0]),
    b.constant('float64', [], [-1e4]),
  ]);
  const table = parameter('embedding', [vocabulary, width]);
  const first = scope('embed', () =>
    drop(
      b.op('Add', [
        b.op('Gather', [table, ids]),
        b.op('Gather', [parameter('positions', [8, width]), places]),
      ]),
    ),
  );
  let hidden = first;
  const norm = (name: string) =>
    b.op('LayerNormalization', [
      hidden,
      parameter(`${name}.gain`, [width]),
      parameter(`${name}.bias`, [width]),
    ]);
  for (let i = 0; i < (options.layers ?? 3); i++) {
    const linear = (x: string, name: string) =>
      b.op('MatMul', [x, parameter(`${i}.${name}`, [width, width])]);
    hidden = scope(`layer.${i}`, () => {
      const x = norm(`${i}.norm1`);
      const keys = b.op('Transpose', [linear(x, 'key')], { perm: [0, 2, 1] });
      const scores = b.op('MatMul', [linear(x, 'query'), keys]);
      const probabilities = b.op('Softmax', [b.op('Add', [scores, mask])], { axis: -1 });
      hidden = b.op('Add', [hidden, drop(b.op('MatMul', [probabilities, linear(x, 'value')]))]);
      const y = norm(`${i}.norm2`);
      const gate = linear(options.carried ? b.op('Add', [y, first]) : y, 'gate');
      const gated = b.op('Mul', [b.op('Mul', [gate, b.op('Sigmoid', [gate])]), linear(y, 'up')]);
      const result = b.op('Add', [hidden, linear(gated, 'down')]);
      return options.unknown && i === 0 ? b.op('CumSum', [result, zero]) : result;
    });
  }
  scope('head', () => {
    const logits = b.op(
      'MatMul',
      [norm('final'), b.op('Transpose', [table], { perm: [1, 0] })],
      {},
      { output: 'logits' },
    );
    const rows = b.op('Reshape', [logits, b.constant('int64', [2], [-1, vocabulary])]);
    const targets = b.op('Reshape', [labels, b.constant('int64', [1], [-1])]);
    b.op(
      'SoftmaxCrossEntropyLoss',
      [rows, targets],
      { reduction: 'sum', ignore_index: -100 },
      { output: 'loss' },
    );
  });
  b.output('loss', 'float64', []);
  b.output('logits', 'float64', ['batch', 'length', vocabulary]);
  return b.build();
}

const inputs: Values = {
  ids: fromNumbers('int64', [batch, length], [1, 5, 5, 0, 8, 2, 1, 3]),
  labels: fromNumbers('int64', [batch, length], [5, 5, 0, -100, 2, 1, 3, -100]),
};

const isParameter = (name: string) => !name.startsWith('const.');

function planOf(graph: Graph, options: Partial<PlanOptions> = {}): TrainingPlan {
  return planTraining(graph, {
    inputShapes: { ids: [batch, length], labels: [batch, length] },
    trainable: isParameter,
    lower: 'all',
    ...options,
  });
}

function feedsOf(graph: Graph): Values {
  const parameters = [...graph.initializers].filter(([name]) => isParameter(name));
  return { ...inputs, ...Object.fromEntries(parameters) };
}

async function expectSameGradients(a: TrainingPlan, b: TrainingPlan, feeds: Values) {
  const [left, right] = [await trainOnce(a, feeds), await trainOnce(b, feeds)];
  const [lossA, lossB] = [left.outputs.loss!, right.outputs.loss!].map(toNumbers);
  expect(relativeError(lossA!, lossB!)).toBeLessThan(1e-12);
  expect([...left.gradients.keys()].sort()).toEqual([...right.gradients.keys()].sort());
  for (const [name, gradient] of left.gradients) {
    const other = right.gradients.get(name)!;
    // Two orders of summing some hundred float64 terms.
    expect(relativeError(toNumbers(gradient), toNumbers(other)), name).toBeLessThan(1e-10);
  }
}

describe('a plan whose arithmetic is lowered', () => {
  const nodesOf = (plan: TrainingPlan) =>
    [...plan.programs.values()].flatMap(({ forward, backward, inference }) =>
      [forward, backward, inference].flatMap((graph) => graph?.nodes ?? []),
    );
  const ours = (plan: TrainingPlan) =>
    new Set(
      nodesOf(plan)
        .filter(({ domain }) => domain === 'deepspeed')
        .map(({ opType }) => opType),
    );

  test('has our operators only where they work in the memory of the host', () => {
    const graph = decoder({ layers: 2 });
    const fused = planOf(graph, { lower: undefined });
    const lowered = planOf(graph, { lower: 'arithmetic' });
    expect(ours(fused)).toContain('MatMulAccumulate');
    expect([...ours(lowered)].sort()).toEqual(['Accumulate', 'EmbeddingGradAccumulate']);
    expect(nodesOf(lowered).some(({ domain }) => domain === 'com.microsoft')).toBe(false);
    expect(lowered.lowered).toContain('deepspeed.MatMulAccumulate');
  });

  test('binds what the fused one binds', () => {
    const bindings = (plan: TrainingPlan) =>
      plan.segments.map(({ forward, backward, inference }) => [forward, backward, inference]);
    const graph = decoder({ layers: 2 });
    expect(bindings(planOf(graph, { lower: 'arithmetic' }))).toEqual(
      bindings(planOf(graph, { lower: undefined })),
    );
  });
});

describe('planTraining', () => {
  test('a plan computes the gradients that central differences show', async () => {
    const graph = decoder({ layers: 2, carried: true });
    const feeds = feedsOf(graph);
    const { gradients } = await trainOnce(planOf(graph), feeds);
    const whole: Graph = {
      ...graph,
      inputs: [
        ...graph.inputs,
        ...Object.entries(feeds)
          .filter(([name]) => graph.initializers.has(name))
          .map(([name, { dtype, dims }]) => ({ name, dtype, shape: dims })),
      ],
      outputs: graph.outputs.slice(0, 1),
      initializers: new Map([...graph.initializers].filter(([name]) => !isParameter(name))),
    };
    const runner = await load(whole);
    const weights = { loss: fromNumbers('float64', [], [1]) };
    for (const name of [
      'embedding',
      'positions',
      '0.gate',
      '1.query',
      '0.norm1.gain',
      'final.bias',
    ]) {
      const expected = await centralDifferences(runner, feeds, name, weights, 1e-5);
      const got = toNumbers(gradients.get(name)!);
      // Rounding 1e-16·|loss|/h = 2e-10 against gradients of about 1, truncation h² = 1e-10.
      expect(relativeError(got, expected), name).toBeLessThan(1e-6);
    }
  });

  test('segments, one whole segment and unfused operators agree', async () => {
    const segmented = decoder({ carried: true });
    const feeds = feedsOf(segmented);
    const plan = planOf(segmented);
    const nodes = segmented.nodes.map((node) => ({ ...node, metadata: { segment: 'all' } }));
    await expectSameGradients(plan, planOf({ ...segmented, nodes }), feeds);
    await expectSameGradients(plan, planOf(segmented, { fuse: false }), feeds);
  });

  test('identical layers share a program, and say so only when they are identical', () => {
    const plan = planOf(decoder());
    expect(plan.segments.map(({ name }) => name)).toEqual([
      'embed',
      'layer.0',
      'layer.1',
      'layer.2',
      'head',
    ]);
    expect(plan.programs.size).toBe(3);
    const frozen = planOf(decoder(), { trainable: (name) => isParameter(name) && name !== '1.up' });
    expect(frozen.programs.size).toBe(4);
  });

  test('without labels the layers are found', async () => {
    for (const layers of [2, 5]) {
      const graph = decoder({ layers, labelled: false });
      const plan = planOf(graph);
      const repeated = plan.segments.filter(({ name }) => name.startsWith('layer.'));
      expect(repeated).toHaveLength(layers);
      expect(new Set(repeated.map(({ program }) => program)).size).toBe(1);
      // Each layer has its own four or more weights.
      for (const { parameters } of repeated) expect(parameters.length).toBe(10);
      await expectSameGradients(plan, planOf(decoder({ layers })), feedsOf(graph));
    }
  });

  test('a tied embedding is written by both ends, by the head first', () => {
    const plan = planOf(decoder(), { lower: undefined });
    const embedding = plan.parameters.find(({ name }) => name === 'embedding')!;
    expect(embedding.segments).toEqual([0, 4]);
    const flags = plan.segments.map(
      ({ backward }) =>
        backward?.inputs.find((v) => v.kind === 'first' && v.parameter === 'embedding')?.firstUse,
    );
    expect(flags).toEqual([false, undefined, undefined, undefined, true]);
  });

  test('a carried activation gets one gradient from each reader', () => {
    const plan = planOf(decoder({ carried: true }), { lower: undefined });
    const gradients = plan.segments[0]!.backward!.inputs.filter(({ kind }) => kind === 'grad');
    expect(gradients.map(({ actual }) => actual.replace(/^.*@/, '@'))).toEqual([
      '@layer.0',
      '@layer.1',
      '@layer.2',
    ]);
    const sent = plan.segments.flatMap(({ backward }) => backward!.outputs.map((v) => v.actual));
    for (const { actual } of gradients) expect(sent).toContain(actual);
  });

  test('every bound input exists before it is read', () => {
    const plan = planOf(decoder({ carried: true, dropout: true }), {
      lower: undefined,
      keepOutputs: ['logits'],
    });
    const made = new Set([...plan.inputs.map(({ name }) => name), ...plan.seeds]);
    const outside = new Set(['parameter', 'buffer', 'first']);
    const step = (binding: { inputs: (typeof plan.segments)[0]['forward']['inputs'] } | null) => {
      for (const { kind, actual } of binding?.inputs ?? []) {
        if (!outside.has(kind)) expect(made, `${kind} ${actual}`).toContain(actual);
      }
    };
    const finish = (binding: { outputs: { actual: string }[] } | null | undefined) => {
      for (const { actual } of binding?.outputs ?? []) made.add(actual);
    };
    finish(plan.prologue);
    for (const { forward } of plan.segments) {
      step(forward);
      finish(forward);
    }
    for (const { backward } of plan.segments.toReversed()) {
      step(backward);
      finish(backward);
    }
  });

  test('dropout: layers share a program, streams do not meet, inference has none', async () => {
    const graph = decoder({ dropout: true });
    const plan = planOf(graph, { lower: undefined });
    expect(plan.programs.size).toBe(3);
    expect(plan.inputs.map(({ name }) => name)).toContain('rng');
    const sources = plan.segments.flatMap(({ forward }) =>
      forward.inputs.filter(({ actual }) => actual.startsWith('rng')).map(({ actual }) => actual),
    );
    expect(sources).toEqual(['rng.embed', 'rng.layer.0', 'rng.layer.1', 'rng.layer.2']);
    for (const { inference } of plan.programs.values()) {
      expect(inference.nodes.map(({ opType }) => opType)).not.toContain('Dropout');
    }
    const lowered = planOf(graph);
    const kept = await inferOnce(lowered, feedsOf(graph));
    const plain = await inferOnce(planOf(decoder()), feedsOf(graph));
    expect(toNumbers(kept.loss!)).toEqual(toNumbers(plain.loss!));
  });

  test('the dropout mask of forward is the mask of backward', async () => {
    const graph = decoder({ layers: 1, dropout: true });
    const plan = planOf(graph);
    const mask = plan.inputs.find(({ name }) => name === 'mask.embed.0')!;
    const feeds = feedsOf(graph);
    const gone: Tensor = fromNumbers('bool', mask.shape, new Array(batch * length * width).fill(0));
    const { gradients } = await trainOnce(plan, { ...feeds, [mask.name]: gone });
    expect(toNumbers(gradients.get('positions')!).every((value) => value === 0)).toBe(true);
    const all = await trainOnce(plan, feeds);
    expect(toNumbers(all.gradients.get('positions')!).some((value) => value !== 0)).toBe(true);
  });

  test('kept outputs are those of the graph, and cost training nothing', async () => {
    const graph = decoder();
    const plan = planOf(graph, { keepOutputs: ['logits'] });
    const feeds = feedsOf(graph);
    const { logits, loss } = await inferOnce(plan, feeds);
    expect(logits!.dims).toEqual([batch, length, vocabulary]);
    const trained = await trainOnce(plan, feeds);
    expect(relativeError(toNumbers(trained.outputs.loss!), toNumbers(loss!))).toBeLessThan(1e-12);
  });

  test('an operator without a rule is named, with what to freeze', () => {
    const graph = decoder({ unknown: true });
    let error: unknown;
    try {
      planOf(graph);
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(DeepSpeedError);
    const { code, message, fix, data } = error as DeepSpeedError;
    expect(code).toBe('GRADIENT_MISSING');
    expect(message).toContain('operator CumSum of node');
    expect(fix).toMatch(/Freeze the parameters before it \('.*', '.*', '.*' and \d+ more\)/);
    expect(data.op).toBe('CumSum');
    // What the fix says helps: with everything before the node frozen, the plan is made.
    const frozen = new Set(['embedding', 'positions']);
    const trainable = (name: string) =>
      isParameter(name) && !frozen.has(name) && !name.startsWith('0.');
    expect(() => planOf(graph, { trainable })).not.toThrow();
  });

  test('a loss without trainable parameters is refused', () => {
    expect(() => planOf(decoder(), { trainable: () => false })).toThrow(/trainable parameter/);
    expect(() => planOf(decoder(), { lossOutput: 'cost' })).toThrow(/no output 'cost'/);
  });
});

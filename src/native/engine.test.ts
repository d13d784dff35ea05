/** The engine: bound runs, works, memory account, numbers of flat-buffer works, two ranks. */
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fromNumbers, GraphBuilder } from '../graph/index.ts';
import type { DataType } from '../graph/ir.ts';
import { randomNumbers } from '../graph/testing.ts';
import type { FloatType, NativeBuffer, NativeEngine, OptimizerHyper, Region } from './index.ts';
import { BoundGraph, soloEngine } from './engine-testing.ts';

// Node 20 reads no TypeScript, and workers do not inherit vitest's own loader.
const loadTypeScript = `import('tsx/esm/api').then(({ tsImport }) => tsImport(${JSON.stringify(
  new URL('./engine-rank.fixture.ts', import.meta.url).href,
)}, ${JSON.stringify(import.meta.url)}))`;

let engine: NativeEngine;
beforeEach(() => {
  engine = soloEngine(2);
});
afterEach(() => engine.dispose());

/** y = x · w, with a chain of elementwise steps so that the run needs workspace. */
function chainGraph(rows: number, width: number) {
  const b = new GraphBuilder('chain');
  b.input('x', 'float32', [rows, width]);
  b.input('w', 'float32', [width, width]);
  const product = b.op('MatMul', ['x', 'w']);
  const gelu = b.op('Gelu', [product], {}, { domain: 'deepspeed' });
  b.output(b.op('Add', [gelu, product], {}, { output: 'y' }), 'float32', [rows, width]);
  return b.build();
}

/** Writes to nothing that ends: `first` fails because its label is out of range. */
function failingGraph() {
  const b = new GraphBuilder('failing');
  b.input('logits', 'float32', [1, 2]);
  b.input('labels', 'int64', [1]);
  const [loss] = b.ops('SoftmaxCrossEntropy', ['logits', 'labels'], 2, {}, { domain: 'deepspeed' });
  b.output(loss!, 'float32', [1]);
  return b.build();
}

function floats(values: ArrayLike<number>, dtype: FloatType = 'float32'): Region {
  const tensor = fromNumbers(dtype, [values.length], values);
  const buffer = engine.allocate(tensor.data.byteLength, { category: 'gradients' });
  new Uint8Array(buffer.view()).set(tensor.data);
  return { buffer, byteOffset: 0, count: values.length, dtype };
}
const read = (region: Region) =>
  Array.from(new Float32Array(region.buffer.view(), region.byteOffset, region.count));
const pair = () => ({
  buffer: engine.allocate(16, { category: 'optimizer' }),
  byteOffset: 0,
});

describe('runs', () => {
  test('a MatMul over bound memory equals float64', async () => {
    const [rows, inner, columns] = [5, 33, 7];
    const b = new GraphBuilder('product');
    b.input('x', 'float32', [rows, inner]);
    b.input('w', 'float32', [inner, columns]);
    b.output(b.op('MatMul', ['x', 'w'], {}, { output: 'y' }), 'float32', [rows, columns]);
    const bound = new BoundGraph(engine, b.build());
    const x = fromNumbers('float32', [rows, inner], randomNumbers(rows * inner, 1));
    const w = fromNumbers('float32', [inner, columns], randomNumbers(inner * columns, 2));
    await bound.run({ x, w });
    const [xs, ws, ys] = [bound.numbers('x'), bound.numbers('w'), bound.numbers('y')];
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        let [value, scale] = [0, 0];
        for (let k = 0; k < inner; k++) {
          const term = xs[i * inner + k]! * ws[k * columns + j]!;
          value += term;
          scale += Math.abs(term);
        }
        expect(Math.abs(ys[i * columns + j]! - value)).toBeLessThanOrEqual(
          inner * 2 ** -24 * scale,
        );
      }
    }
  });

  test.each<[DataType, number[]]>([
    ['bool', [1, 0, 1]],
    ['int64', [-5, 0, 2 ** 40]],
    ['int32', [1, -2, 3]],
    ['float16', [0.5, -2, 3]],
    ['bfloat16', [0.5, -2, 3]],
    ['float64', [Math.PI, 0, -1]],
    ['float32', []],
  ])('binds %s', async (dtype, values) => {
    const b = new GraphBuilder(`identity ${dtype}`);
    b.input('x', dtype, [values.length]);
    b.output(b.op('Identity', ['x'], {}, { output: 'y' }), dtype, [values.length]);
    const bound = new BoundGraph(engine, b.build());
    await bound.run({ x: fromNumbers(dtype, [values.length], values) });
    expect(bound.numbers('y')).toEqual(values);
  });

  test('repeat bit for bit, and steady state allocates nothing', async () => {
    const bound = new BoundGraph(engine, chainGraph(300, 96));
    const feeds = {
      x: fromNumbers('float32', [300, 96], randomNumbers(300 * 96, 3)),
      w: fromNumbers('float32', [96, 96], randomNumbers(96 * 96, 4)),
    };
    await bound.run(feeds);
    const first = bound.read('y').data;
    const { allocations, current } = engine.memory();
    expect(current.workspace).toBeGreaterThan(0);
    for (let i = 0; i < 20; i++) {
      await bound.run();
      expect(Buffer.from(bound.read('y').data).equals(first)).toBe(true);
    }
    expect(engine.memory().allocations).toBe(allocations);
    expect(engine.memory().current.workspace).toBe(current.workspace);
  });

  test('the account returns to zero when everything is released', async () => {
    const bound = new BoundGraph(engine, chainGraph(10, 16));
    await bound.run();
    expect(engine.memory().total).toBeGreaterThan(0);
    bound.dispose();
    expect(engine.memory().total).toBe(0);
    expect(engine.memory().peak.activations).toBe((10 * 16 * 2 + 16 * 16) * 4);
  });

  test('errors name the session, the input and what was found', () => {
    const b = new GraphBuilder('named');
    b.input('x', 'float32', [4]);
    b.output(b.op('Identity', ['x'], {}, { output: 'y' }), 'float32', [4]);
    const bound = new BoundGraph(engine, b.build());
    const small = engine.allocate(8, { category: 'inputs' });
    const binding = (name: string, buffer: NativeBuffer, dtype: DataType = 'float32') => ({
      name,
      buffer,
      byteOffset: 0,
      dtype,
      dims: [4],
    });
    const good = engine.allocate(32, { category: 'inputs' });
    const create = (x: ReturnType<typeof binding>[], y = [binding('y', good)]) =>
      expect(() => engine.createInstance(bound.session, x, y));
    create([binding('x', small)]).toThrow(/named.*x needs 16 bytes.*buffer of 8/);
    create([binding('z', good)]).toThrow(/named.*no free input z; the model has x/);
    create([]).toThrow(/named.*input not bound: x/);
    create([binding('x', good)], []).toThrow(/named.*output not bound: y/);
    create([binding('x', good, 'int64')]).toThrow(
      /named.*x is bound as int64, the model's is float32/,
    );
    create([{ ...binding('x', good), dims: [2, 2] }]).toThrow(
      /named.*x is bound as \[2, 2\], the model's is \[4\]/,
    );
    expect(() => engine.createInstance(99, [], [])).toThrow(/no session 99/);
    expect(() => engine.run(99)).toThrow(/no instance 99/);
    expect(() => engine.loadSession(new Uint8Array([1, 2]), { name: 'broken' })).toThrow(/broken/);
    expect(() => engine.allocate(8, { category: 'nothing' as 'inputs' })).toThrow(/nothing/);
  });
});

describe('works', () => {
  test('a dependency on another queue is waited for', async () => {
    const region = floats(new Float32Array(1 << 16));
    const works: number[] = [];
    let last: number | undefined;
    for (let i = 1; i <= 20; i++) {
      const filled = engine.fill(region, i, last === undefined ? [] : [last]);
      last = engine.allReduce(region, 'sum', [filled]);
      works.push(filled, last);
    }
    engine.setTracing(true);
    await engine.wait(last!);
    await Promise.all(works.map((work) => engine.wait(work)));
    expect(read(region).every((value) => value === 20)).toBe(true);
  });

  test('a failure reaches its dependents by wait, waitSync and idle, and nothing else', async () => {
    const bound = new BoundGraph(engine, failingGraph());
    bound.write('labels', fromNumbers('int64', [1], [7]));
    const region = floats([1, 2]);
    const failed = engine.run(bound.instance);
    const dependent = engine.allReduce(region, 'sum', [failed]);
    const second = engine.fill(region, 5, [dependent]);
    const other = engine.fill(region, 3);
    const message = /run session failing.*label 7/s;
    await expect(engine.wait(second)).rejects.toMatchObject({
      name: 'NativeError',
      code: 'ORT_FAILED',
      message: expect.stringMatching(message),
    });
    expect(() => engine.waitSync(dependent)).toThrow(message);
    await engine.wait(other);
    expect(read(region)).toEqual([3, 3]);
    await expect(engine.idle()).rejects.toThrow(message);
    await engine.idle();
    bound.write('labels', fromNumbers('int64', [1], [1]));
    await bound.run();
    expect(() => engine.waitSync(12345)).toThrow(/never enqueued/);
    expect(() => engine.fill(region, 1, [12345])).toThrow(/never enqueued/);
  });

  test('records name works and their times while tracing is on', async () => {
    const region = floats([1]);
    await engine.wait(engine.fill(region, 1));
    expect(engine.takeRecords()).toEqual([]);
    engine.setTracing(true);
    const a = engine.fill(region, 2);
    const b = engine.barrier([a]);
    await engine.idle();
    const records = engine.takeRecords();
    expect(records.map(({ work, queue, name }) => ({ work, queue, name }))).toEqual([
      { work: a, queue: 'compute', name: 'fill' },
      { work: b, queue: 'comm', name: 'barrier' },
    ]);
    expect(records[0]!.endNs).toBeLessThanOrEqual(records[1]!.startNs);
    expect(records[0]!.enqueuedNs).toBeLessThanOrEqual(records[0]!.startNs);
  });

  test('memory that a queued work uses outlives its handle', async () => {
    const region = floats(new Float32Array(1 << 20));
    const works = Array.from({ length: 10 }, (_, i) => engine.fill(region, i));
    region.buffer.dispose();
    expect(() => engine.fill(region, 1)).toThrow(/disposed/);
    await engine.wait(works.at(-1)!);
    expect(engine.memory().total).toBe(0);
  });

  test('dispose is idempotent, fails later calls and settles pending waits', async () => {
    const region = floats(new Float32Array(1 << 20));
    const works = Array.from({ length: 50 }, () => engine.fill(region, 1));
    const waits = works.map((work) =>
      engine.wait(work).then(
        () => 'ended',
        (e) => e.code,
      ),
    );
    engine.dispose();
    engine.dispose();
    for (const outcome of await Promise.all(waits))
      expect(['ended', 'DISPOSED']).toContain(outcome);
    expect(() => engine.fill(region, 1)).toThrow(expect.objectContaining({ code: 'DISPOSED' }));
    expect(() => engine.wait(1)).toThrow(expect.objectContaining({ code: 'DISPOSED' }));
  });
});

describe('flat buffers', () => {
  test.each([0, 1, 17, 40_000])('fill, copy, axpby over %d elements', async (count) => {
    const x = randomNumbers(count, 5).map(Math.fround);
    const [source, target] = [floats(x), floats(x.map(() => 0))];
    engine.copy(source, target);
    engine.axpby(source, target, 0.25, 2);
    await engine.idle();
    expect(read(target)).toEqual(x.map((v) => Math.fround(2 * v + 0.25 * v)));
    engine.fill(target, -1.5);
    await engine.idle();
    expect(read(target)).toEqual(x.map(() => -1.5));
  });

  test('copy converts to 16 bits and back with one rounding', async () => {
    const exact = [1, -2.5, 0.15625, 0, 3];
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const [source, half, back] = [floats(exact), floats(exact, dtype), floats([0, 0, 0, 0, 0])];
      engine.fill(half, 0);
      engine.copy(source, half);
      engine.copy(half, back);
      await engine.idle();
      expect(read(back)).toEqual(exact);
    }
    expect(() => engine.copy(floats([1]), floats([1, 2]))).toThrow(/1 elements against 2/);
  });

  test('squaredNorm sums in float64 over regions and counts what is not finite', async () => {
    const x = randomNumbers(100_003, 6).map(Math.fround);
    const out = pair();
    engine.squaredNorm([floats(x), floats([]), floats([3, Number.NaN, Infinity])], out);
    await engine.idle();
    const [sum, nonFinite] = new Float64Array(out.buffer.view());
    const exact = x.reduce((total, v) => total + v * v, 9);
    expect(Math.abs(sum! - exact)).toBeLessThanOrEqual(x.length * 2 ** -53 * exact);
    expect(nonFinite).toBe(2);
  });
});

const hyper = (over: Partial<OptimizerHyper> = {}): OptimizerHyper => ({
  lr: 0.01,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.1,
  biasCorrection: true,
  ...over,
});

/** AdamW in float64. */
function adamw(p: number, g: number, group: OptimizerHyper, step: number, m: number, v: number) {
  const m1 = group.beta1 * m + (1 - group.beta1) * g;
  const v1 = group.beta2 * v + (1 - group.beta2) * g * g;
  const decayed = p - group.lr * group.weightDecay * p;
  const update =
    m1 / (1 - group.beta1 ** step) / (Math.sqrt(v1 / (1 - group.beta2 ** step)) + group.eps);
  return { p: decayed - group.lr * update, m: m1, v: v1 };
}

describe('optimizerStep', () => {
  const count = 10_001;
  const g = randomNumbers(count, 7).map(Math.fround);
  const p = randomNumbers(count, 8).map(Math.fround);
  const groups = [hyper(), hyper({ weightDecay: 0, lr: 0.02 })];
  // Many small ranges of alternating groups with a gap that belongs to none.
  const ranges = [
    { offset: 0, count: 3, group: 0 },
    { offset: 3, count: 5000, group: 1 },
    { offset: 5010, count: 4991, group: 0 },
  ];

  test('AdamW with groups, clipping and a 16-bit copy equals float64; the gap is untouched', async () => {
    const [master, gradient] = [floats(p), floats(g)];
    const [state1, state2] = [floats(p.map(() => 0)), floats(p.map(() => 0))];
    const copy16 = { ...floats(p, 'bfloat16') };
    const norm = pair();
    engine.squaredNorm([gradient], norm);
    engine.optimizerStep({
      kind: 'adamw',
      step: 1,
      master,
      gradient,
      state1,
      state2,
      copy16,
      ranges,
      groups,
      gradientScale: 0.5,
      maxNorm: 1,
      norm,
    });
    await engine.idle();
    const norm2 = Math.sqrt(g.reduce((sum, v) => sum + v * v, 0));
    const scale = 0.5 * Math.min(1, 1 / (norm2 * 0.5 + 1e-6));
    const result = read(master);
    for (let i = 0; i < count; i++) {
      const range = ranges.find(({ offset, count: n }) => i >= offset && i < offset + n);
      if (range === undefined) {
        expect(result[i]).toBe(p[i]);
        continue;
      }
      const group = groups[range.group]!;
      const wanted = adamw(p[i]!, g[i]! * scale, group, 1, 0, 0).p;
      // A handful of roundings of the weight, and of an update of at most lr/(1 − …) ≈ lr.
      expect(Math.abs(result[i]! - wanted)).toBeLessThanOrEqual(
        2 ** -24 * (4 * Math.abs(p[i]!) + 32 * group.lr),
      );
    }
    const bits = new Uint16Array(copy16.buffer.view());
    const masterBits = new Uint32Array(master.buffer.view());
    const bfloat16 = (word: number) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
    expect(bits[0]).toBe(bfloat16(masterBits[0]!));
    expect(bits[count - 1]).toBe(bfloat16(masterBits[count - 1]!));
  });

  test('a gradient that is not finite changes nothing', async () => {
    const [master, gradient] = [floats(p), floats(g.map((v, i) => (i === 77 ? Infinity : v)))];
    const [state1, state2] = [floats(p.map(() => 0)), floats(p.map(() => 0))];
    const norm = pair();
    engine.squaredNorm([gradient], norm);
    engine.optimizerStep({
      kind: 'adam',
      step: 1,
      master,
      gradient,
      state1,
      state2,
      ranges,
      groups,
      gradientScale: 1,
      maxNorm: 0,
      norm,
    });
    await engine.idle();
    expect(read(master)).toEqual(p);
    expect(read(state1).every((v) => v === 0)).toBe(true);
  });

  test('what does not fit is refused by name', () => {
    const step = {
      kind: 'adamw' as const,
      step: 1,
      master: floats([1, 2]),
      gradient: floats([1, 2]),
      state1: floats([0, 0]),
      state2: floats([0, 0]),
      ranges: [{ offset: 0, count: 2, group: 0 }],
      groups,
      gradientScale: 1,
      maxNorm: 0,
    };
    const { state2: _, ...withoutState } = step;
    const refuse = (change: object, message: RegExp) =>
      expect(() => engine.optimizerStep({ ...step, ...change })).toThrow(message);
    refuse({ gradient: floats([1]) }, /gradient has 1 elements, master 2/);
    refuse({ ranges: [{ offset: 1, count: 2, group: 0 }] }, /must lie in the shard of 2/);
    refuse({ ranges: [{ offset: 0, count: 2, group: 5 }] }, /group 5 of 2/);
    refuse({ maxNorm: 1 }, /needs `norm`/);
    refuse({ step: 0 }, /counts from 1/);
    refuse({ kind: 'adamx' }, /adamx/);
    expect(() => engine.optimizerStep(withoutState)).toThrow(/state2/);
  });
});

test('two ranks: reduceScatter, norm, step and allGather equal one rank on the summed gradient', async () => {
  const count = 4099; // odd: the shards differ
  const shards = [
    { offset: 0, count: 2050 },
    { offset: 2050, count: 2049 },
  ];
  const gradients = [7, 8].map((seed) => randomNumbers(count, seed).map(Math.fround));
  const weights = randomNumbers(count, 9).map(Math.fround);
  const key = `engine-test-${process.pid}-${Math.random()}`;
  const results = await Promise.all(
    [0, 1].map(
      (rank) =>
        new Promise<number[]>((resolve, reject) => {
          const worker = new Worker(loadTypeScript, {
            eval: true,
            workerData: { key, rank, shards, gradient: gradients[rank], weights, group: hyper() },
          });
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
    ),
  );
  expect(results[0]).toEqual(results[1]);

  const [master, gradient] = [floats(weights), floats(gradients[0]!)];
  const [state1, state2] = [floats(weights.map(() => 0)), floats(weights.map(() => 0))];
  engine.axpby(floats(gradients[1]!), gradient, 1, 1);
  engine.optimizerStep({
    kind: 'adamw',
    step: 1,
    master,
    gradient,
    state1,
    state2,
    ranges: [{ offset: 0, count, group: 0 }],
    groups: [hyper()],
    gradientScale: 0.5,
    maxNorm: 0,
  });
  await engine.idle();
  expect(results[0]).toEqual(read(master));
});

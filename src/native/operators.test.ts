/**
 * The `deepspeed` operators inside ONNX Runtime against their formulas in float64. The kernels have
 * their own tests in C++; here it is inputs, outputs, attributes, shapes, in-place buffers and edges.
 *
 * Bounds: a sum of n products in fp32 errs by at most n·u·Σ|terms| (u = 2⁻²⁴), exp and tanh kernels
 * by a few u. Every reference gives its value and its scale Σ|terms|; the operators must agree within
 * `slack`·u·scale.
 */
import { afterAll, describe, expect, test } from 'vitest';
import { numel } from '../graph/index.ts';
import { randomNumbers } from '../graph/testing.ts';
import { soloEngine } from './engine-testing.ts';
import {
  type Expected,
  expectClose,
  f32,
  flag,
  geluForms,
  ints,
  type Port,
  random,
  runOperator,
  silu,
  siluSlope,
  token,
} from './operator-testing.ts';

const engine = soloEngine(2);
afterAll(() => engine.dispose());
const run = runOperator.bind(null, engine);

/** Shapes with odd sizes, one element, no rows, and enough elements for several threads. */
const shapes = [[3, 7], [1], [0, 5], [2, 3, 5], [129, 513]];
const map = (port: Port, fn: (x: number, i: number) => Expected): Expected[] =>
  Array.from(port.values, fn);

describe.each(shapes.map((dims) => ({ dims, name: `[${dims}]` })))(
  'activations $name',
  ({ dims }) => {
    const x = random(dims, 1, -3, 3);
    const dy = random(dims, 2);

    test.each(['none', 'tanh'] as const)(
      'Gelu and GeluGrad, approximate %s',
      async (approximate) => {
        const { value, slope } = geluForms[approximate];
        const forward = await run('Gelu', { X: x }, { Y: { dims } }, { approximate });
        expectClose(
          forward.numbers('Y'),
          map(x, (v) => ({ value: value(v), scale: Math.abs(v) })),
          16,
        );
        const backward = await run('GeluGrad', { dY: dy, X: x }, { dX: { dims } }, { approximate });
        expectClose(
          backward.numbers('dX'),
          map(x, (v, i) => {
            const g = dy.values[i]!;
            return { value: g * slope(v), scale: Math.abs(g) * 4 };
          }),
          32,
        );
        forward.dispose();
        backward.dispose();
      },
    );

    test('Silu, SiluGrad, SiluMul, SiluMulGrad', async () => {
      const up = random(dims, 3);
      const one = await run('Silu', { X: x }, { Y: { dims } });
      expectClose(
        one.numbers('Y'),
        map(x, (v) => ({ value: silu(v), scale: Math.abs(v) })),
        16,
      );
      const two = await run('SiluGrad', { dY: dy, X: x }, { dX: { dims } });
      expectClose(
        two.numbers('dX'),
        map(x, (v, i) => ({
          value: dy.values[i]! * siluSlope(v),
          scale: Math.abs(dy.values[i]!) * 4,
        })),
        32,
      );
      const three = await run('SiluMul', { gate: x, up }, { Y: { dims } });
      expectClose(
        three.numbers('Y'),
        map(x, (v, i) => ({ value: silu(v) * up.values[i]!, scale: Math.abs(v * up.values[i]!) })),
        16,
      );
      const four = await run(
        'SiluMulGrad',
        { dY: dy, gate: x, up },
        { dGate: { dims }, dUp: { dims } },
      );
      expectClose(
        four.numbers('dGate'),
        map(x, (v, i) => {
          const factor = dy.values[i]! * up.values[i]!;
          return { value: factor * siluSlope(v), scale: Math.abs(factor) * 4 };
        }),
        32,
      );
      expectClose(
        four.numbers('dUp'),
        map(x, (v, i) => ({
          value: dy.values[i]! * silu(v),
          scale: Math.abs(dy.values[i]! * v),
        })),
        16,
      );
      for (const bound of [one, two, three, four]) bound.dispose();
    });
  },
);

/** Rows × D of the flattened leading axes. */
function rowsOf(dims: readonly number[]): { rows: number; D: number; rowDims: number[] } {
  const D = dims.at(-1)!;
  const rowDims = dims.slice(0, -1);
  return { rows: numel(rowDims), D, rowDims };
}
const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
const row = (port: Port, t: number, D: number) =>
  Array.from({ length: D }, (_, i) => port.values[t * D + i]!);

describe.each([{ dims: [5, 7] }, { dims: [2, 3, 33] }, { dims: [0, 4] }, { dims: [300, 65] }])(
  'normalization $dims',
  ({ dims }) => {
    const { rows, D, rowDims } = rowsOf(dims);
    const x = random(dims, 4);
    const dy = random(dims, 5);
    const gamma = random([D], 6);
    const beta = random([D], 7);
    const epsilon = 1e-5;
    const indices = Array.from({ length: rows }, (_, t) => t);

    test.each([
      { kind: 'LayerNormalization', withBeta: true },
      { kind: 'LayerNormalization', withBeta: false },
      { kind: 'RMSNormalization', withBeta: false },
    ])('$kind, beta: $withBeta', async ({ kind, withBeta }) => {
      const centred = kind === 'LayerNormalization';
      const mean = indices.map((t) => (centred ? sum(row(x, t, D)) / D : 0));
      const rstd = indices.map(
        (t) => 1 / Math.sqrt(sum(row(x, t, D).map((v) => (v - mean[t]!) ** 2)) / D + epsilon),
      );
      const normal = (t: number) => row(x, t, D).map((v) => (v - mean[t]!) * rstd[t]!);

      const inputs = centred ? { X: x, gamma, ...(withBeta ? { beta } : {}) } : { X: x, gamma };
      const stats = { ...(centred ? { mean: { dims: rowDims } } : {}), rstd: { dims: rowDims } };
      const forward = await run(kind, inputs, { Y: { dims }, ...stats }, { epsilon });
      expectClose(
        forward.numbers('Y'),
        indices.flatMap((t) =>
          normal(t).map((v, i) => {
            const shift = withBeta ? beta.values[i]! : 0;
            const g = gamma.values[i]!;
            // The mean's own error, D·u·max|x| / D, is scaled by rstd like the value.
            return {
              value: v * g + shift,
              scale: Math.abs(g) * (Math.abs(v) + 4 * rstd[t]!) + Math.abs(shift),
            };
          }),
        ),
        D + 8,
      );
      expectClose(
        forward.numbers('rstd'),
        rstd.map((value) => ({ value, scale: value })),
        D + 8,
      );

      const saved = { rstd: { dims: rowDims, values: rstd.map(f32) } };
      const backwardInputs = centred
        ? { dY: dy, X: x, gamma, mean: { dims: rowDims, values: mean.map(f32) }, ...saved }
        : { dY: dy, X: x, gamma, ...saved };
      const backward = await run(`${kind}Grad`, backwardInputs, {
        dX: { dims },
        dGamma: { dims: [D] },
        ...(centred ? { dBeta: { dims: [D] } } : {}),
      });
      expectClose(
        backward.numbers('dX'),
        indices.flatMap((t) => {
          const n = normal(t);
          const h = row(dy, t, D).map((v, i) => v * gamma.values[i]!);
          const h1 = centred ? sum(h) / D : 0;
          const h2 = sum(h.map((v, i) => v * n[i]!)) / D;
          const size = sum(h.map(Math.abs)) / D + sum(h.map((v, i) => Math.abs(v * n[i]!))) / D;
          return n.map((v, i) => ({
            value: rstd[t]! * (h[i]! - h1 - v * h2),
            scale: rstd[t]! * (Math.abs(h[i]!) + size * (1 + Math.abs(v) + 4 * rstd[t]!)),
          }));
        }),
        D + 16,
      );
      const columns = Array.from({ length: D }, (_, i) => i);
      expectClose(
        backward.numbers('dGamma'),
        columns.map((i) => {
          const terms = indices.map((t) => dy.values[t * D + i]! * normal(t)[i]!);
          const size = indices.map(
            (t) => Math.abs(dy.values[t * D + i]!) * (Math.abs(normal(t)[i]!) + 4 * rstd[t]!),
          );
          return { value: sum(terms), scale: sum(size) };
        }),
        rows + 8,
      );
      if (centred) {
        expectClose(
          backward.numbers('dBeta'),
          columns.map((i) => {
            const terms = indices.map((t) => dy.values[t * D + i]!);
            return { value: sum(terms), scale: sum(terms.map(Math.abs)) };
          }),
          rows + 8,
        );
      }
      forward.dispose();
      backward.dispose();
    });
  },
);

describe.each([
  { T: 6, V: 11 },
  { T: 0, V: 3 },
  { T: 65, V: 1003 },
])('softmax and cross-entropy, T=$T V=$V', ({ T, V }) => {
  const logits = random([T, V], 8, -6, 6);
  const ignored = -100;
  const labels = Array.from({ length: T }, (_, t) => (t % 3 === 1 ? ignored : (t * 7919) % V));
  const dloss = random([T], 9);
  const rows = labels.map((label, t) => {
    const values = row(logits, t, V);
    const lse = Math.log(sum(values.map(Math.exp)));
    return { label, values, lse, p: values.map((v) => Math.exp(v - lse)) };
  });

  test('SoftmaxCrossEntropy and its gradient, ignored rows', async () => {
    const forward = await run(
      'SoftmaxCrossEntropy',
      { logits, labels: ints([T], labels) },
      { loss: { dims: [T] }, lse: { dims: [T] } },
    );
    const slack = V + 16; // the sum of V exponentials, relative; log turns it absolute
    expectClose(
      forward.numbers('loss'),
      rows.map(({ label, values, lse }) => ({
        value: label === ignored ? 0 : lse - values[label]!,
        scale: 1 + Math.abs(lse) + 6,
      })),
      slack,
    );
    expectClose(
      forward.numbers('lse'),
      rows.map(({ lse }) => ({ value: lse, scale: 1 + Math.abs(lse) })),
      slack,
    );
    const backward = await run(
      'SoftmaxCrossEntropyGrad',
      {
        dLoss: dloss,
        logits,
        labels: ints([T], labels),
        lse: { dims: [T], values: rows.map(({ lse }) => f32(lse)) },
      },
      { dLogits: { dims: [T, V] } },
    );
    expectClose(
      backward.numbers('dLogits'),
      rows.flatMap(({ label, p }, t) =>
        p.map((value, i) => {
          const g = dloss.values[t]!;
          const off = value - (i === label ? 1 : 0);
          return label === ignored
            ? { value: 0, scale: 0 }
            : { value: g * off, scale: Math.abs(g) * 2 };
        }),
      ),
      32,
    );
    forward.dispose();
    backward.dispose();
  });

  test('another ignore_index', async () => {
    const bound = await run(
      'SoftmaxCrossEntropy',
      {
        logits,
        labels: ints(
          [T],
          labels.map(() => 1),
        ),
      },
      { loss: { dims: [T] }, lse: { dims: [T] } },
      { ignore_index: 1 },
    );
    expect(bound.numbers('loss')).toEqual(labels.map(() => 0));
    bound.dispose();
  });

  test('SoftmaxGrad', async () => {
    const dy = random([T, V], 10);
    const y = { dims: [T, V], values: rows.flatMap(({ p }) => p.map(f32)) };
    const bound = await run(
      'SoftmaxGrad',
      { dY: dy, Y: y },
      { dX: { dims: [T, V] } },
      { axis: -1 },
    );
    expectClose(
      bound.numbers('dX'),
      rows.flatMap((_, t) => {
        const g = row(dy, t, V);
        const p = row(y, t, V);
        const dot = sum(g.map((v, i) => v * p[i]!));
        return p.map((v, i) => ({ value: v * (g[i]! - dot), scale: v * 4 }));
      }),
      V + 8,
    );
    bound.dispose();
  });
});

test('a label outside the vocabulary is an error that names the row and the operator', async () => {
  await expect(
    run(
      'SoftmaxCrossEntropy',
      { logits: random([2, 3], 1), labels: ints([2], [0, 3]) },
      { loss: { dims: [2] }, lse: { dims: [2] } },
    ),
  ).rejects.toThrow(/one SoftmaxCrossEntropy.*deepspeed\.SoftmaxCrossEntropy.*row 1/s);
});

test('shapes that do not fit are refused by name', async () => {
  await expect(
    run('SiluMul', { gate: random([2, 3], 1), up: random([3, 2], 1) }, { Y: { dims: [2, 3] } }),
  ).rejects.toThrow(/\[2, 3\].*\[3, 2\]/s);
});

test('an operator that needs scratch memory gives it back', async () => {
  const [rows, D] = [64, 48];
  const backward = await run(
    'LayerNormalizationGrad',
    {
      dY: random([rows, D], 1),
      X: random([rows, D], 2),
      gamma: random([D], 3),
      mean: random([rows], 4),
      rstd: random([rows], 5, 0.5, 2),
    },
    { dX: { dims: [rows, D] }, dGamma: { dims: [D] }, dBeta: { dims: [D] } },
  );
  const first = engine.memory();
  for (let step = 0; step < 3; step++) await backward.run();
  expect(engine.memory().allocations).toBe(first.allocations);
  expect(engine.memory().total).toBe(first.total);
  backward.dispose();
});

describe('in place', () => {
  test.each([[[7]], [[0]], [[513, 129]]])('Accumulate %s', async (dims) => {
    const grad = random(dims, 11);
    const buffer = random(dims, 12);
    const set = await run('Accumulate', { grad, buffer, first: flag(true) }, { token });
    expect(set.numbers('buffer')).toEqual(Array.from(grad.values));
    const add = await run('Accumulate', { grad, buffer, first: flag(false) }, { token });
    expect(add.numbers('buffer')).toEqual(
      Array.from(grad.values, (v, i) => f32(v + buffer.values[i]!)),
    );
    set.dispose();
    add.dispose();
  });

  test.each([
    { T: 0, V: 3, D: 5 },
    { T: 40, V: 7, D: 33 },
  ])('EmbeddingGradAccumulate $T rows', async ({ T, V, D }) => {
    const dy = random([2, T / 2, D], 13);
    const indices = Array.from({ length: T }, (_, t) => (t * t) % V);
    const buffer = random([V, D], 14);
    for (const first of [true, false]) {
      const bound = await run(
        'EmbeddingGradAccumulate',
        { dY: dy, indices: ints([2, T / 2], indices), buffer, first: flag(first) },
        { token },
      );
      // Ascending t, each step rounded to fp32: the result is exact, bit for bit.
      const wanted = Float32Array.from(buffer.values, (v) => (first ? 0 : v));
      indices.forEach((v, t) => {
        for (let i = 0; i < D; i++) wanted[v * D + i]! += dy.values[t * D + i]!;
      });
      expect(bound.numbers('buffer')).toEqual(Array.from(wanted));
      bound.dispose();
    }
  });
});

test('RotaryEmbedding, and its inverse undoes it', async () => {
  const dims = [2, 3, 5, 6];
  const x = random(dims, 15);
  const angles = randomNumbers(5 * 3, 16, -3, 3);
  const cos = { dims: [5, 3], values: angles.map((a) => f32(Math.cos(a))) };
  const sin = { dims: [5, 3], values: angles.map((a) => f32(Math.sin(a))) };
  for (const inverse of [0, 1]) {
    const bound = await run('RotaryEmbedding', { X: x, cos, sin }, { Y: { dims } }, { inverse });
    const expected = Array.from(x.values, (_, i): Expected => {
      const d = i % 6;
      const half = d % 3;
      const base = i - d;
      const place = (Math.floor(i / 6) % 5) * 3 + half;
      const [x1, x2] = [x.values[base + half]!, x.values[base + half + 3]!];
      const c = cos.values[place]!;
      const s = (inverse ? -1 : 1) * sin.values[place]!;
      return {
        value: d < 3 ? x1 * c - x2 * s : x2 * c + x1 * s,
        scale: Math.abs(x1) + Math.abs(x2),
      };
    });
    expectClose(bound.numbers('Y'), expected, 4);
    bound.dispose();
  }
});

/** Philox 4x32-10 in BigInt: the published algorithm typed out. */
function philox(counter: number[], key: [number, number]): number[] {
  let [c0, c1, c2, c3] = counter.map((word) => word >>> 0) as [number, number, number, number];
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * BigInt(c0);
    const b = 0xcd9e8d57n * BigInt(c2);
    const high = (product: bigint) => Number(product >> 32n);
    const low = (product: bigint) => Number(product & 0xffffffffn);
    [c0, c1, c2, c3] = [(high(b) ^ c1 ^ k0) >>> 0, low(b), (high(a) ^ c3 ^ k1) >>> 0, low(a)];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

describe('Dropout', () => {
  const [ratio, stream, seed, step] = [0.3, 5, 0x1_2345_6789, 17];
  const sampleDims = [3, 7];
  const forwardOf = (x: Port, samples: number[], training = true) =>
    run(
      'Dropout',
      {
        X: x,
        rng: ints([2 + samples.length], [seed, step, ...samples]),
        training: ints([1], [training ? 1 : 0], 'bool'),
      },
      { Y: { dims: x.dims } },
      { ratio, stream },
    );

  test('draws the documented mask, the same in the gradient and for any split of the batch', async () => {
    const dims = [4, ...sampleDims];
    const x = random(dims, 17, 1, 2);
    const samples = [10, 11, 12, 99];
    const whole = await forwardOf(x, samples);
    const expected = Array.from(x.values, (v, i) => {
      const [sample, row, column] = [samples[Math.floor(i / 21)]!, Math.floor(i / 7) % 3, i % 7];
      const words = philox(
        [Math.floor(column / 4) + 2 ** 16 * row, stream, step, sample],
        [seed % 2 ** 32, Math.floor(seed / 2 ** 32)],
      );
      const uniform = (words[column % 4]! >>> 8) * 2 ** -24;
      return { value: uniform >= f32(ratio) ? v / (1 - f32(ratio)) : 0, scale: 4 };
    });
    expectClose(whole.numbers('Y'), expected, 4);
    expect(expected.some(({ value }) => value === 0)).toBe(true);

    const gradient = await run(
      'DropoutGrad',
      {
        dY: x,
        rng: ints([6], [seed, step, ...samples]),
        training: ints([1], [1], 'bool'),
      },
      { dX: { dims } },
      { ratio, stream },
    );
    expect(gradient.numbers('dX')).toEqual(whole.numbers('Y'));

    const parts: number[] = [];
    for (const [from, to] of [
      [0, 1],
      [1, 4],
    ] as const) {
      const part = {
        dims: [to - from, ...sampleDims],
        values: Array.from(x.values).slice(from * 21, to * 21),
      };
      const bound = await forwardOf(part, samples.slice(from, to));
      parts.push(...bound.numbers('Y'));
      bound.dispose();
    }
    expect(parts).toEqual(whole.numbers('Y'));
    whole.dispose();
    gradient.dispose();
  });

  test('its mask on its own is what it keeps, by the size of planes, rows and columns', async () => {
    const dims = [2, 3, 5, 7];
    const [x, samples] = [random(dims, 19, 1, 2), [4, 9]];
    const whole = await run(
      'Dropout',
      {
        X: x,
        rng: ints([4], [seed, step, ...samples]),
        training: ints([1], [1], 'bool'),
      },
      { Y: { dims } },
      { ratio, stream },
    );
    const mask = await run(
      'DropoutMask',
      { rng: ints([4], [seed, step, ...samples]) },
      { kept: { dtype: 'bool', dims } },
      { ratio, stream, planes: 3, rows: 5, columns: 7 },
    );
    expect(mask.numbers('kept')).toEqual(whole.numbers('Y').map((y) => (y === 0 ? 0 : 1)));
    whole.dispose();
    mask.dispose();
  });

  test('is the identity outside training, and takes an empty batch', async () => {
    const x = random([2, ...sampleDims], 18);
    const off = await forwardOf(x, [1, 2], false);
    expect(off.numbers('Y')).toEqual(Array.from(x.values));
    const empty = await forwardOf({ dims: [0, 3], values: [] }, []);
    expect(empty.numbers('Y')).toEqual([]);
    off.dispose();
    empty.dispose();
  });
});

/**
 * MatMul, MatMulAccumulate and LinearCrossEntropy inside ONNX Runtime against their formulas in float64:
 * shapes, broadcasting, attributes, optional inputs, in-place buffers. The kernels have their own tests in
 * C++ (addon/gemm).
 *
 * Bounds: a sum of K products in fp32 errs by at most K·u·Σ|terms|; to K come a few roundings of what
 * stands around the sum, and no derivative of an activation is above 1.13.
 */
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { numel } from '../graph/index.ts';
import { randomNumbers } from '../graph/testing.ts';
import { type BoundGraph, soloEngine } from './engine-testing.ts';
import {
  type Expected,
  expectClose,
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

const prologues = {
  none: (x: number) => x,
  gelu: geluForms.none.value,
  gelu_tanh: geluForms.tanh.value,
  silu,
  silu_mul: (x: number, y: number) => silu(x) * y,
};
const epilogues = {
  none: (x: number) => x,
  gelu: geluForms.none.value,
  gelu_tanh: geluForms.tanh.value,
  silu,
  gelu_grad: (x: number, z: number) => x * geluForms.none.slope(z),
  gelu_tanh_grad: (x: number, z: number) => x * geluForms.tanh.slope(z),
  silu_grad: (x: number, z: number) => x * siluSlope(z),
};

interface Attributes {
  transA: number;
  transB: number;
  alpha: number;
  prologue: keyof typeof prologues;
  prologueB?: keyof typeof prologues;
  epilogue: keyof typeof epilogues;
}
const plain: Attributes = { transA: 0, transB: 0, alpha: 1, prologue: 'none', epilogue: 'none' };

interface Inputs {
  A: Port;
  B: Port;
  A2?: Port | undefined;
  B2?: Port | undefined;
  bias?: Port | undefined;
  residual?: Port | undefined;
  Z?: Port | undefined;
}

/** Position in the leading axes `dims`, aligned at the end, of element `index` of the axes `whole`. */
function broadcastIndex(index: number, whole: readonly number[], dims: readonly number[]): number {
  let position = 0;
  let stride = 1;
  for (let i = 1; i <= whole.length; i++) {
    const size = dims.at(-i) ?? 1;
    position += (size === 1 ? 0 : index % whole.at(-i)!) * stride;
    stride *= size;
    index = Math.floor(index / whole.at(-i)!);
  }
  return position;
}

function broadcastDims(a: readonly number[], b: readonly number[]): number[] {
  const length = Math.max(a.length, b.length);
  return Array.from({ length }, (_, i) => {
    const [x, y] = [a.at(i - length) ?? 1, b.at(i - length) ?? 1];
    return i < length - a.length ? y : i < length - b.length ? x : x === 1 ? y : x;
  });
}

function product(inputs: Inputs, attributes: Attributes) {
  const { transA, transB, alpha, prologue, prologueB = 'none', epilogue } = attributes;
  const { A, B, A2, B2, bias, residual, Z } = inputs;
  const [M, K] = transA ? [A.dims.at(-1)!, A.dims.at(-2)!] : [A.dims.at(-2)!, A.dims.at(-1)!];
  const N = B.dims.at(transB ? -2 : -1)!;
  const leadingA = A.dims.slice(0, -2);
  const leadingB = B.dims.slice(0, -2);
  const leading = broadcastDims(leadingA, leadingB);
  const expected: Expected[] = [];
  for (let i = 0; i < numel(leading); i++) {
    const a = broadcastIndex(i, leading, leadingA) * M * K;
    const b = broadcastIndex(i, leading, leadingB) * K * N;
    for (let m = 0; m < M; m++)
      for (let n = 0; n < N; n++) {
        let [sum, size] = [0, 0];
        for (let k = 0; k < K; k++) {
          const at = a + (transA ? k * M + m : m * K + k);
          const x = prologues[prologue](A.values[at]!, A2?.values[at] ?? 0);
          const from = b + (transB ? n * K + k : k * N + n);
          const term = x * prologues[prologueB](B.values[from]!, B2?.values[from] ?? 0);
          sum += term;
          size += Math.abs(term);
        }
        const at = expected.length;
        const shift = bias?.values[n] ?? 0;
        const rest = residual?.values[at] ?? 0;
        const value = epilogues[epilogue](alpha * sum + shift, Z?.values[at] ?? 0);
        const scale = Math.abs(alpha) * size + Math.abs(shift);
        expected.push({ value: value + rest, scale: 1.13 * scale + Math.abs(rest) });
      }
  }
  return { expected, dims: [...leading, M, N], K };
}

async function checkMatMul(inputs: Inputs, attributes: Attributes): Promise<void> {
  const { expected, dims, K } = product(inputs, attributes);
  const bound = await run(
    'MatMul',
    {
      A: inputs.A,
      B: inputs.B,
      A2: inputs.A2,
      bias: inputs.bias,
      residual: inputs.residual,
      Z: inputs.Z,
    },
    { Y: { dims } },
    { ...attributes },
  );
  expectClose(bound.numbers('Y'), expected, K + 24);
  bound.dispose();
}

/** Leading axes of A and B that broadcast. */
const leadingAxes = [
  [[], []],
  [[2, 3], []],
  [[], [3]],
  [[2, 1], [3]],
  [
    [2, 3],
    [2, 3],
  ],
  [[1], [4, 1]],
  [[0], [1]],
  [[5], [1]],
] as const;

describe('MatMul', () => {
  const size = fc.constantFrom(0, 1, 2, 3, 5, 16, 17, 33, 40);
  test('all attributes, shapes and optional inputs', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          M: size,
          N: size,
          K: size,
          leading: fc.constantFrom(...leadingAxes),
          transA: fc.constantFrom(0, 1),
          transB: fc.constantFrom(0, 1),
          alpha: fc.constantFrom(1, 0.5, -2),
          prologue: fc.constantFrom(...(Object.keys(prologues) as Attributes['prologue'][])),
          epilogue: fc.constantFrom(...(Object.keys(epilogues) as Attributes['epilogue'][])),
          bias: fc.boolean(),
          residual: fc.boolean(),
          seed: fc.integer({ min: 1, max: 1 << 20 }),
        }),
        async ({ M, N, K, leading, bias, residual, seed, ...attributes }) => {
          const [leadingA, leadingB] = leading;
          const a = [...leadingA, ...(attributes.transA ? [K, M] : [M, K])];
          const b = [...leadingB, ...(attributes.transB ? [N, K] : [K, N])];
          const y = [...broadcastDims(leadingA, leadingB), M, N];
          await checkMatMul(
            {
              // Small: the reference's erf is exact below 4.
              A: random(a, seed, -0.5, 0.5),
              B: random(b, seed + 1, -0.5, 0.5),
              A2: attributes.prologue === 'silu_mul' ? random(a, seed + 2) : undefined,
              bias: bias ? random([N], seed + 3) : undefined,
              residual: residual ? random(y, seed + 4) : undefined,
              Z: attributes.epilogue.endsWith('grad') ? random(y, seed + 5) : undefined,
            },
            attributes,
          );
        },
      ),
      { numRuns: 150, seed: 7 },
    );
  });

  test.each([
    { dtype: 'bfloat16' as const, bits: 8 },
    { dtype: 'float16' as const, bits: 11 },
  ])('B stored as $dtype', async ({ dtype, bits }) => {
    // Values of so few significant bits are exact in both types.
    const dims = [65, 129];
    const values = randomNumbers(numel(dims), 3, -1, 1).map(
      (v) => Math.round(v * 2 ** (bits - 1)) / 2 ** (bits - 1),
    );
    for (const transB of [0, 1]) {
      const A = random([37, transB ? 129 : 65], 4);
      await checkMatMul({ A, B: { dtype, dims, values } }, { ...plain, transB });
      const one = random([1, A.dims[1]!], 5);
      await checkMatMul({ A: one, B: { dtype, dims, values } }, { ...plain, transB });
    }
  });

  test('what does not fit is named', async () => {
    const A = random([2, 3], 1);
    const y = { Y: { dims: [2, 4] } };
    const cases: [Partial<Inputs>, Partial<Attributes>, RegExp][] = [
      [{ B: random([4, 3], 2) }, {}, /columns of A and rows of B/],
      [{ B: random([3, 4], 2), A2: A }, {}, /A2 is for the prologue silu_mul/],
      [{ B: random([3, 4], 2) }, { prologue: 'silu_mul' }, /A2 is for the prologue silu_mul/],
      [{ B: random([3, 4], 2), bias: random([3], 3) }, {}, /bias/],
      [{ B: random([3, 4], 2), residual: random([4, 2], 3) }, {}, /residual/],
      [{ B: random([3, 4], 2) }, { epilogue: 'silu_grad' }, /Z is for the epilogues/],
      [{ B: random([3, 4], 2) }, { epilogue: 'relu' as 'silu' }, /epilogue is 'relu'.*gelu_tanh/],
      [{ B: { dtype: 'int32', dims: [3, 4], values: Array(12).fill(1) } }, {}, /B is int32/],
    ];
    for (const [inputs, attributes, message] of cases) {
      const { B, A2, bias, residual } = inputs;
      const given = { A, B: B!, A2, bias, residual };
      await expect(run('MatMul', given, y, { ...plain, ...attributes })).rejects.toThrow(message);
    }
  });

  test('repeats bit for bit at any number of threads', async () => {
    const inputs = { A: random([130, 700], 1), B: random([700, 150], 2) };
    const y = { Y: { dims: [130, 150] } };
    const first = await run('MatMul', inputs, y);
    const wanted = first.numbers('Y');
    for (const threads of [1, 3]) {
      const other = soloEngine(threads);
      const bound = await runOperator(other, 'MatMul', inputs, y);
      expect(bound.numbers('Y')).toEqual(wanted);
      bound.dispose();
      other.dispose();
    }
    first.dispose();
  });
});

describe('MatMulAccumulate', () => {
  async function check(
    a: number[],
    b: number[],
    {
      transA,
      transB,
      prologue = 'none',
      prologueB = 'none',
    }: Partial<Attributes> & { transA: number; transB: number },
  ): Promise<void> {
    const A = random(a, 1);
    const B = random(b, 2);
    const A2 = prologue === 'silu_mul' ? random(a, 3) : undefined;
    const B2 = prologueB === 'silu_mul' ? random(b, 6) : undefined;
    // As one product over the flattened leading axes: the terms of all matrices side by side.
    const flat = ({ dims, values }: Port): Port => {
      const [rows, columns] = dims.slice(-2) as [number, number];
      const matrices = numel(dims.slice(0, -2));
      const oneSum = transA === 1 && transB === 0;
      return { dims: oneSum ? [matrices * rows, columns] : [matrices, rows, columns], values };
    };
    const attributes = { ...plain, transA, transB, alpha: 0.5, prologue, prologueB };
    const each = product({ A: flat(A), B: flat(B), A2, B2 }, attributes);
    const [M, N] = each.dims.slice(-2) as [number, number];
    const products = numel(each.dims.slice(0, -2));
    const sums = Array.from({ length: M * N }, (_, i) => {
      const terms = Array.from({ length: products }, (_, p) => each.expected[p * M * N + i]!);
      return terms.reduce((x, y) => ({ value: x.value + y.value, scale: x.scale + y.scale }), {
        value: 0,
        scale: 0,
      });
    });
    const rows = numel(B.dims) / N;
    const columnSums = Array.from({ length: N }, (_, n) => {
      let [value, scale] = [0, 0];
      for (let i = 0; i < rows; i++) {
        const K = B.dims.at(-1)!;
        const at = transB ? Math.floor(i / K) * N * K + n * K + (i % K) : i * N + n;
        const term = prologues[prologueB](B.values[at]!, B2?.values[at] ?? 0);
        value += term;
        scale += Math.abs(term);
      }
      return { value, scale };
    });
    const buffer = random([M, N], 4);
    const biasBuffer = random([N], 5);
    const plus = (to: Port, on: boolean) => (e: Expected, i: number) => ({
      value: e.value + (on ? to.values[i]! : 0),
      scale: e.scale + Math.abs(to.values[i]!),
    });
    for (const [first, biasFirst] of [
      [true, false],
      [false, true],
    ] as const) {
      const bound = await run(
        'MatMulAccumulate',
        {
          A,
          B,
          buffer,
          first: flag(first),
          A2,
          biasBuffer,
          biasFirst: flag(biasFirst),
          B2,
        },
        { token },
        attributes,
      );
      const terms = each.K * products + 24;
      expectClose(bound.numbers('buffer'), sums.map(plus(buffer, !first)), terms);
      expectClose(bound.numbers('biasBuffer'), columnSums.map(plus(biasBuffer, !biasFirst)), terms);
      bound.dispose();
    }
  }

  test.each([
    { a: [40, 7], b: [40, 33], transA: 1, transB: 0 },
    { a: [2, 5, 3], b: [10, 4], transA: 1, transB: 0 },
    { a: [0, 3], b: [0, 4], transA: 1, transB: 0 },
    { a: [3, 20, 7], b: [3, 33, 20], transA: 1, transB: 1 },
    { a: [3, 7, 20], b: [3, 20, 33], transA: 0, transB: 0 },
    { a: [2, 2, 7, 20], b: [4, 33, 20], transA: 0, transB: 1 },
    { a: [600, 70], b: [2, 300, 90], transA: 1, transB: 0 },
  ])('A $a B $b transA $transA transB $transB', async ({ a, b, transA, transB }) => {
    await check(a, b, { transA, transB });
    await check(a, b, { transA, transB, prologue: 'silu_mul' });
    await check(a, b, { transA, transB, prologueB: 'silu_mul' });
    await check(a, b, { transA, transB, prologue: 'gelu', prologueB: 'silu' });
  });

  test('without a bias gradient; what does not fit is named', async () => {
    const A = random([5, 2], 1);
    const B = random([5, 3], 2);
    const buffer = random([2, 3], 3);
    const first = flag(true);
    const bound = await run('MatMulAccumulate', { A, B, buffer, first }, { token });
    const { expected } = product({ A, B }, { ...plain, transA: 1 });
    expectClose(bound.numbers('buffer'), expected, 32);
    bound.dispose();
    const wrong = { A, B, buffer: random([3, 2], 3), first };
    await expect(run('MatMulAccumulate', wrong, { token })).rejects.toThrow(/buffer is \[3, 2\]/);
    const alone = { A, B, buffer, first, A2: undefined, biasBuffer: random([3], 4) };
    await expect(run('MatMulAccumulate', alone, { token })).rejects.toThrow(/come together/);
    const gated = run(
      'MatMulAccumulate',
      { A, B, buffer, first },
      { token },
      { prologueB: 'silu_mul' },
    );
    await expect(gated).rejects.toThrow(/B2 is for the prologueB silu_mul/);
  });
});

describe.each([
  { leading: [7], D: 5, V: 13, transposed: 0 },
  { leading: [2, 30], D: 9, V: 70, transposed: 1 },
  { leading: [0], D: 3, V: 4, transposed: 0 },
])('LinearCrossEntropy $leading × $D, $V classes, transposed $transposed', (shape) => {
  const { leading, D, V, transposed } = shape;
  const T = numel(leading);
  const ignored = -100;
  const X = random([...leading, D], 21, -1, 1);
  const W = random(transposed ? [D, V] : [V, D], 22, -1, 1);
  const dLoss = random(leading, 23);
  const labels = ints(
    leading,
    Array.from({ length: T }, (_, t) => (t % 4 === 2 ? ignored : (t * 7919) % V)),
  );
  const weight = (v: number, d: number) => W.values[transposed ? d * V + v : v * D + d]!;
  const rows = Array.from({ length: T }, (_, t) => {
    const scores = Array.from({ length: V }, (_, v) => {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += X.values[t * D + d]! * weight(v, d);
      return sum;
    });
    const lse = Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0));
    return { scores, lse, label: labels.values[t]! };
  });
  // Scores err by D·u·Σ|terms| ≤ D·u·D; their exponentials' sum by V·u more.
  const slack = D * D + V + 32;
  const lse = { dims: leading, values: rows.map((row) => Math.fround(row.lse)) };

  test('loss and log-sum-exp', async () => {
    const out = { loss: { dims: leading }, lse: { dims: leading } };
    const bound = await run('LinearCrossEntropy', { X, W, labels }, out, { transposed });
    expectClose(
      bound.numbers('loss'),
      rows.map((row) => ({
        value: row.label === ignored ? 0 : row.lse - row.scores[row.label]!,
        scale: 1 + Math.abs(row.lse),
      })),
      slack,
    );
    expectClose(
      bound.numbers('lse'),
      rows.map((row) => ({ value: row.lse, scale: 1 + Math.abs(row.lse) })),
      slack,
    );
    bound.dispose();
  });

  test.each([true, false, undefined])('gradients, first: %s', async (first) => {
    const buffer = random(W.dims, 24);
    const dX = Array.from({ length: T * D }, () => ({ value: 0, scale: 0 }));
    const dW = Array.from(buffer.values, (old) => ({
      value: first ? 0 : old,
      scale: Math.abs(old),
    }));
    rows.forEach((row, t) => {
      if (row.label === ignored) return;
      row.scores.forEach((score, v) => {
        const target = row.label === v ? 1 : 0;
        const probability = Math.exp(score - row.lse);
        const slope = dLoss.values[t]! * (probability - target);
        const size = Math.abs(dLoss.values[t]!) * (probability + target);
        for (let d = 0; d < D; d++) {
          const [toX, toW] = [dX[t * D + d]!, dW[transposed ? d * V + v : v * D + d]!];
          toX.value += slope * weight(v, d);
          toX.scale += size * Math.abs(weight(v, d));
          toW.value += slope * X.values[t * D + d]!;
          toW.scale += size * Math.abs(X.values[t * D + d]!);
        }
      });
    });
    const accumulated = first === undefined ? {} : { buffer, first: flag(first) };
    const bound = await run(
      'LinearCrossEntropyGrad',
      { dLoss, X, W, labels, lse, ...accumulated },
      { dX: { dims: X.dims }, token },
      { transposed },
    );
    expectClose(bound.numbers('dX'), dX, slack + T);
    if (first !== undefined) expectClose(bound.numbers('buffer'), dW, slack + T);
    bound.dispose();
  });

  test('what does not fit is named', async () => {
    const out = { loss: { dims: leading }, lse: { dims: leading } };
    const wrong = { X, W, labels: { ...labels, values: Array(T).fill(V) } };
    const other = { X: random([...leading, D + 1], 1), W, labels };
    if (T > 0)
      await expect(run('LinearCrossEntropy', wrong, out, { transposed })).rejects.toThrow(/label/);
    await expect(run('LinearCrossEntropy', other, out, { transposed })).rejects.toThrow(/X is/);
  });
});

describe('nothing is allocated after the first run', () => {
  const [rows, width, classes] = [200, 300, 250];
  const X = random([rows, width], 1);
  const G = random([rows, classes], 2);
  const W = random([width, classes], 3);
  const buffer = random([width, classes], 4);
  const first = flag(false);
  const perRow = { dims: [rows] };
  const labels = ints(
    [rows],
    Array.from({ length: rows }, (_, i) => (i * 31) % classes),
  );
  const cases: [string, Parameters<typeof run>[1], Parameters<typeof run>[2]][] = [
    ['MatMul', { A: X, B: W }, { Y: { dims: G.dims } }],
    ['MatMul', { A: random([1, width], 5), B: W }, { Y: { dims: [1, classes] } }],
    ['MatMulAccumulate', { A: X, B: G, buffer, first }, { token }],
    ['LinearCrossEntropy', { X, W, labels }, { loss: perRow, lse: perRow }],
    [
      'LinearCrossEntropyGrad',
      { dLoss: random([rows], 6), X, W, labels, lse: random([rows], 7, 8, 9), buffer, first },
      { dX: { dims: X.dims }, token },
    ],
  ];
  test.each(cases)('%s', async (opType, inputs, outputs) => {
    const attributes = opType.startsWith('Linear') ? { transposed: 1 } : {};
    const bound: BoundGraph = await run(opType, inputs, outputs, attributes);
    await bound.run({});
    const { allocations, current } = engine.memory();
    for (let i = 0; i < 5; i++) await bound.run({});
    expect(engine.memory().allocations).toBe(allocations);
    expect(engine.memory().current).toEqual(current);
    bound.dispose();
  });
});

/** LAMB in the engine: its formulas in double by tensor, and the same bits on any number of threads. */
import { describe, expect, it } from 'vitest';
import type { OptimizerHyper, Region } from './contract.ts';
import { loadAddon } from './load.ts';

const addon = loadAddon();
const steps = 5;
const group: OptimizerHyper = {
  lr: 1e-2,
  beta1: 0.9,
  beta2: 0.99,
  eps: 1e-6,
  weightDecay: 0.01,
  biasCorrection: true,
  minCoeff: 0.01,
  maxCoeff: 10,
};
const hypers = [group, { ...group, weightDecay: 0, biasCorrection: false }];
// Padding between them, one longer than three blocks of sums, one element, weights that are 0.
const ranges = [
  { offset: 0, count: 50_001, group: 0 },
  { offset: 50_016, count: 1, group: 1 },
  { offset: 50_032, count: 700, group: 1 },
  { offset: 50_736, count: 16, group: 0 },
];
const total = 50_752;
const zeros = ranges[3]!;

/** Repeatable values in [−1, 1). */
const value = (k: number): number => Number((BigInt(k) * 48271n + 11n) % 65537n) / 32768.5 - 1;
const gradientAt = (step: number, i: number) => value(1_000_003 * step + i);
const startAt = (i: number) => (i >= zeros.offset ? 0 : value(i));

function engineRun(threads: number): Uint32Array {
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads });
  const vector = (at: (i: number) => number) => {
    const buffer = engine.allocate(4 * total, { category: 'optimizer' });
    const array = new Float32Array(buffer.view());
    for (let i = 0; i < total; i++) array[i] = at(i);
    const region: Region = { buffer, byteOffset: 0, count: total, dtype: 'float32' };
    return { region, array };
  };
  const master = vector(startAt);
  const gradient = vector(() => 0);
  const [state1, state2] = [vector(() => 0), vector(() => 0)];
  for (let step = 1; step <= steps; step++) {
    for (let i = 0; i < total; i++) gradient.array[i] = gradientAt(step, i);
    engine.waitSync(
      engine.optimizerStep({
        kind: 'lamb',
        step,
        master: master.region,
        gradient: gradient.region,
        state1: state1.region,
        state2: state2.region,
        ranges,
        groups: hypers,
        gradientScale: 0.5,
        maxNorm: 0,
      }),
    );
  }
  const bits = new Uint32Array(master.array.slice().buffer);
  engine.dispose();
  communicator.dispose();
  return bits;
}

/** You et al., arXiv 1904.00962, algorithm 2, over one tensor. */
function reference({ offset, count, group: index }: (typeof ranges)[number]): Float64Array {
  const { lr, beta1, beta2, eps, weightDecay, biasCorrection } = hypers[index]!;
  const p = Float64Array.from({ length: count }, (_, i) => Math.fround(startAt(offset + i)));
  const [m, v, u] = [0, 1, 2].map(() => new Float64Array(count)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const norm = (x: Float64Array) => Math.sqrt(x.reduce((sum, a) => sum + a * a, 0));
  for (let step = 1; step <= steps; step++) {
    const [c1, c2] = biasCorrection ? [1 - beta1 ** step, 1 - beta2 ** step] : [1, 1];
    for (let i = 0; i < count; i++) {
      const g = Math.fround(gradientAt(step, offset + i)) / 2;
      m[i] = beta1 * m[i]! + (1 - beta1) * g;
      v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
      u[i] = m[i]! / c1 / (Math.sqrt(v[i]! / c2) + eps) + weightDecay * p[i]!;
    }
    const [weights, update] = [norm(p), norm(u)];
    const ratio = weights === 0 || update === 0 ? 1 : weights / update;
    const coefficient = Math.min(10, Math.max(0.01, ratio));
    for (let i = 0; i < count; i++) p[i] = p[i]! - lr * coefficient * u[i]!;
  }
  return p;
}

describe('lamb', () => {
  const bits = engineRun(1);

  it('equals the formulas in double, by tensor', () => {
    const got = new Float32Array(bits.buffer);
    // Weights of at most 2 are rounded once a step. A move is lr·‖p‖/‖u‖·u with ‖p‖/‖u‖ near 1 (10 at
    // most) and |u| at most 4 here, and rounds some ten times.
    const tolerance = steps * 2 ** -23 * (2 + 10 * group.lr * 10 * 4);
    for (const range of ranges)
      for (const [i, want] of reference(range).entries())
        expect(Math.abs(got[range.offset + i]! - want)).toBeLessThan(tolerance);
    // What lies between tensors is nobody's.
    expect(got[50_001]).toBe(Math.fround(startAt(50_001)));
  });

  it.each([2, 3, 5])('gives the same bits on %i threads', (threads) => {
    expect(engineRun(threads)).toEqual(bits);
  });
});

it('refuses bounds that exclude everything', () => {
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads: 1 });
  const region: Region = {
    buffer: engine.allocate(16, { category: 'optimizer' }),
    byteOffset: 0,
    count: 4,
    dtype: 'float32',
  };
  const step = () =>
    engine.optimizerStep({
      kind: 'lamb',
      step: 1,
      master: region,
      gradient: region,
      state1: region,
      state2: region,
      ranges: [{ offset: 0, count: 4, group: 0 }],
      groups: [{ ...group, minCoeff: 2, maxCoeff: 1 }],
      gradientScale: 1,
      maxNorm: 0,
    });
  expect(step).toThrow(/0 ≤ minCoeff ≤ maxCoeff/);
  engine.dispose();
  communicator.dispose();
});

/** Lossy gradient sums against their formulas in plain TypeScript, bit for bit. */
import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { CompressedTensor, GradientCompression } from './contract.ts';
import type { GradientResult, GradientTask } from './gradient-compression-rank.fixture.ts';
import { rankThreads } from './rank-testing.ts';

/** Of one tensor: every rank's c = gradient + error in, the sum out; `errors` become what was not sent. */
type Encode = (
  cs: Float32Array[],
  errors: Float32Array[],
  tensor: CompressedTensor,
) => Float32Array;

const { fround } = Math;
const zeros = (count: number) => new Float32Array(count);

/** Adding and taking off 1.5 · 2²³ in fp32 rounds to a whole number, ties to even. */
const whole = (value: number) => fround(fround(value + 12582912) - 12582912);

function eightBits(values: Float32Array): Float32Array {
  const peak = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (peak < 2 ** -100) return zeros(values.length);
  const [scale, inverse] = [fround(peak / 127), fround(127 / peak)];
  return values.map((value) => fround(whole(fround(value * inverse)) * scale));
}

const add = (a: Float32Array, b: Float32Array) => a.map((value, i) => value + b[i]!);
const subtract = (a: Float32Array, b: Float32Array) => a.map((value, i) => value - b[i]!);

/** Blocks of a tensor; `serverOf` says which rank adds one up and keeps what it cannot pass on. */
function int8(block: number, serverOf: (element: number) => number): Encode {
  return (cs, errors, { offset }) => {
    const result = zeros(cs[0]!.length);
    for (let from = 0; from < result.length; from += block) {
      const to = Math.min(from + block, result.length);
      const own = cs.map((c) => c.subarray(from, to));
      const sent = own.map(eightBits);
      for (const [r, c] of own.entries()) errors[r]!.set(subtract(c, sent[r]!), from);
      const total = sent.reduce(add, zeros(to - from));
      const passed = eightBits(total);
      const kept = errors[serverOf(offset + from)]!.subarray(from, to);
      kept.set(add(kept, subtract(total, passed)));
      result.set(passed, from);
    }
    return result;
  };
}

function topK(ratio: number): Encode {
  return (cs, errors) => {
    const { length } = cs[0]!;
    const k = Math.min(length, Math.ceil(ratio * length));
    const result = zeros(length);
    for (const [r, c] of cs.entries()) {
      errors[r]!.set(c);
      const order = Array.from(c.keys()).sort((a, b) => Math.abs(c[b]!) - Math.abs(c[a]!) || a - b);
      for (const i of order.slice(0, k)) {
        result[i] = result[i]! + c[i]!;
        errors[r]![i] = 0;
      }
    }
    return result;
  };
}

/** Σ a·b in sixteen stripes, as addon/compress/low_rank_kernels.h fixes the order. */
function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const stripes = new Array<number>(16).fill(0);
  for (let i = 0; i < a.length; i++) stripes[i % 16]! += a[i]! * b[i]!;
  return stripes.reduce((sum, stripe) => sum + stripe, 0);
}

function orthonormal(columns: Float32Array[]): Float32Array[] {
  const done: Float64Array[] = [];
  for (const column of columns) {
    const v = Float64Array.from(column);
    const before = Math.sqrt(dot(v, v));
    for (const other of done) {
      const along = dot(v, other);
      for (let i = 0; i < v.length; i++) v[i] = v[i]! - along * other[i]!;
    }
    const length = Math.sqrt(dot(v, v));
    done.push(length > 1e-6 * before ? v.map((value) => value / length) : v.fill(0));
  }
  return done.map((v) => Float32Array.from(v));
}

function startValue(k: number, j: number): number {
  let h = Math.imul(j + 1, 0x9e3779b1) ^ Math.imul(k + 1, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
  h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
  return fround(((h ^ (h >>> 15)) >>> 8) * 2 ** -23 - 1);
}

/** @param memory Q of every matrix by its offset, from one round to the next */
function powerSgd(rank: number, memory: Map<number, Float32Array[]>): Encode {
  return (cs, errors, { offset, rows, columns }) => {
    // As an all-reduce does: −0 and −0 stay −0.
    const sum = (parts: Float32Array[]) => parts.slice(1).reduce(add, parts[0]!);
    if (rank * (rows + columns) >= rows * columns) {
      for (const error of errors) error.fill(0);
      return sum(cs);
    }
    const ranks = Array.from({ length: rank }, (_, k) => k);
    const old = memory.get(offset) ?? ranks.map(() => zeros(columns));
    const q = old.map((row, k) => (row.some(Boolean) ? row : row.map((_, j) => startValue(k, j))));
    const row = (m: Float32Array, i: number) => m.subarray(i * columns, (i + 1) * columns);
    const p = orthonormal(
      ranks.map((k) => sum(cs.map((m) => zeros(rows).map((_, i) => dot(row(m, i), q[k]!))))),
    );
    const own = cs.map((m) =>
      ranks.map((k) =>
        zeros(columns).map((_, j) => {
          let total = 0;
          for (let i = 0; i < rows; i++) total += m[i * columns + j]! * p[k]![i]!;
          return total;
        }),
      ),
    );
    const all = ranks.map((k) => sum(own.map((factors) => factors[k]!)));
    memory.set(offset, all);
    const expand = (factors: Float32Array[]) =>
      zeros(rows * columns).map((_, at) =>
        ranks.reduce(
          (total, k) => total + p[k]![Math.floor(at / columns)]! * factors[k]![at % columns]!,
          0,
        ),
      );
    for (const [r, m] of cs.entries()) errors[r]!.set(subtract(m, expand(own[r]!)));
    return expand(all);
  };
}

/** Repeatable values with zeros of both signs and equal ones among them. */
function values(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 1;
  return Float32Array.from({ length: count }, (_, i) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    if (i % 7 === 0) return i % 2 === 0 ? 0 : -0;
    return i % 5 === 0 ? 0.25 : state / 2 ** 31 - 1;
  });
}

const matrix = { offset: 0, rows: 33, columns: 20 };
const tensors = [
  matrix,
  { offset: 672, rows: 1, columns: 17 },
  { offset: 704, rows: 1, columns: 1 },
  { offset: 720, rows: 3, columns: 5 },
];
const length = 736;
const elements = tensors.reduce((sum, { rows, columns }) => sum + rows * columns, 0);

/** A rank serves consecutive blocks, about a share of the tensors' elements. */
function serverOf(worldSize: number, block: number): (element: number) => number {
  const servers = new Map<number, number>();
  let before = 0;
  for (const { offset, rows, columns } of tensors) {
    for (let done = 0; done < rows * columns; done += block) {
      let server = 0;
      while (server + 1 < worldSize && before >= Math.floor((elements * (server + 1)) / worldSize))
        server += 1;
      servers.set(offset + done, server);
      before += Math.min(block, rows * columns - done);
    }
  }
  return (element) => servers.get(element)!;
}

const cases: [GradientCompression, (worldSize: number) => Encode][] = [
  [{ type: 'int8', block: 64 }, (worldSize) => int8(64, serverOf(worldSize, 64))],
  [{ type: 'topk', ratio: 0.07 }, () => topK(0.07)],
  [{ type: 'powersgd', rank: 3 }, () => powerSgd(3, new Map())],
];

test.each(
  cases.flatMap(([compression, encode]) =>
    [1, 2, 3, 8].map((worldSize) => ({ worldSize, compression, encode })),
  ),
)('$compression.type, $worldSize ranks: rounds equal the formulas', async (given) => {
  const { worldSize, compression } = given;
  const encode = given.encode(worldSize);
  const rounds = [1, 2, 3, 4];
  const xs = Array.from({ length: worldSize }, (_, rank) =>
    // One round of zeros alone.
    rounds.map((round) => (round === 3 ? zeros(length) : values(length, 10 * rank + round))),
  );
  const errors = xs.map(() => zeros(length));
  const expected = rounds.map((_, round) => {
    const result = xs[0]![round]!.slice();
    for (const tensor of tensors) {
      const [from, to] = [tensor.offset, tensor.offset + tensor.rows * tensor.columns];
      const own = errors.map((error) => error.subarray(from, to));
      const cs = xs.map((x, r) => add(x[round]!.subarray(from, to), own[r]!));
      result.set(encode(cs, own, tensor), from);
    }
    return result;
  });
  const key = randomUUID();
  const ranks = await rankThreads<GradientTask, GradientResult>(
    new URL('./gradient-compression-rank.fixture.ts', import.meta.url),
    xs.map((own, rank) => ({ key, rank, worldSize, compression, tensors, xs: own })),
  );
  for (const [rank, result] of ranks.entries()) {
    // Between the tensors a rank's own values stay.
    for (const [round, values] of result.results.entries())
      for (const { offset, rows, columns } of tensors)
        expect(values.subarray(offset, offset + rows * columns)).toEqual(
          expected[round]!.subarray(offset, offset + rows * columns),
        );
    expect(result.results[0]![length - 1]).toBe(xs[rank]![0]![length - 1]);
    expect(result.error).toEqual(errors[rank]);
    expect(result.factors).toEqual(ranks[0]!.factors);
    expect(result.refused).toEqual([
      expect.stringMatching(/^INVALID_ARGUMENT .*without tensors/),
      expect.stringMatching(/^INVALID_ARGUMENT .*empty tensor/),
      expect.stringMatching(/^INVALID_ARGUMENT .*x must be float32/),
      expect.stringMatching(/^INVALID_ARGUMENT .*tensors end at 735/),
      expect.stringMatching(/^INVALID_ARGUMENT .*error has 3 elements, must have 736/),
    ]);
  }
});

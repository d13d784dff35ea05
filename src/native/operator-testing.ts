/** For tests of operators: one in a graph of its own, its data, its formulas in float64. */
import { expect } from 'vitest';
import { fromNumbers, GraphBuilder, numel, type Tensor } from '../graph/index.ts';
import type { DataType } from '../graph/ir.ts';
import { randomNumbers } from '../graph/testing.ts';
import type { NativeEngine } from './contract.ts';
import { BoundGraph } from './engine-testing.ts';

/** Half a unit in the last place of 1 in fp32. */
const u = 2 ** -24;

/** A tensor to feed. */
export interface Port {
  dtype?: DataType;
  dims: readonly number[];
  values: ArrayLike<number>;
}
export const f32 = Math.fround;
export const random = (dims: readonly number[], seed: number, low = -2, high = 2): Port => ({
  dims,
  values: randomNumbers(numel(dims), seed, low, high).map(f32),
});
export const ints = (
  dims: readonly number[],
  values: number[],
  dtype: DataType = 'int64',
): Port => ({
  dtype,
  dims,
  values,
});
const tensorOf = ({ dtype = 'float32', dims, values }: Port): Tensor =>
  fromNumbers(dtype, dims, values);

/** A graph of one operator, bound and run; the caller disposes it. `undefined` leaves an optional input out. */
export async function runOperator(
  engine: NativeEngine,
  opType: string,
  inputs: Record<string, Port | undefined>,
  outputs: Record<string, { dtype?: DataType; dims: readonly number[] }>,
  attributes: Record<string, number | string> = {},
): Promise<BoundGraph> {
  const b = new GraphBuilder(`one ${opType}`);
  const names = Object.entries(inputs).map(([name, port]) =>
    port === undefined ? undefined : b.input(name, port.dtype ?? 'float32', port.dims),
  );
  const results = b.ops(opType, names, Object.keys(outputs).length, attributes, {
    domain: 'deepspeed',
  });
  Object.values(outputs).forEach((output, i) => {
    b.output(results[i]!, output.dtype ?? 'float32', output.dims);
  });
  const graph = b.build();
  graph.nodes[0]!.outputs = Object.keys(outputs);
  graph.outputs = graph.outputs.map((output, i) => ({ ...output, name: Object.keys(outputs)[i]! }));
  const bound = new BoundGraph(engine, graph);
  const feeds: Record<string, Tensor> = {};
  for (const [name, port] of Object.entries(inputs)) if (port) feeds[name] = tensorOf(port);
  await bound.run(feeds);
  return bound;
}

/** A value and what its error is relative to. */
export interface Expected {
  value: number;
  scale: number;
}

/** Throws unless every value is within slack·u·scale. */
export function expectClose(actual: number[], expected: Expected[], slack: number): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => {
    const { value: wanted, scale } = expected[i]!;
    const error = Math.abs(value - wanted);
    if (!(error <= slack * u * scale + 1e-37)) {
      throw new Error(
        `element ${i}: ${value} instead of ${wanted}, off by ${error / (u * scale)} u`,
      );
    }
  });
}

export const token = { dtype: 'int32' as const, dims: [1] };
export const flag = (on: boolean) => ints([1], [on ? 1 : 0], 'int32');

/** erf by its power series, exact to float64 for the |x| < 4 used here. */
function erf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) || n < 4; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
    if (n > 200) break;
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
export const silu = (x: number) => x * sigmoid(x);
export const siluSlope = (x: number) => sigmoid(x) * (1 + x * (1 - sigmoid(x)));
export const geluForms = {
  none: {
    value: (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    slope: (x: number) =>
      0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  },
  tanh: {
    value: (x: number) =>
      0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    slope: (x: number) => {
      const t = Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));
      const inner = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner;
    },
  },
};

/** For tests: running graphs in onnxruntime-node, and gradients by central differences. */
import * as ort from 'onnxruntime-node';
import { encodeModel } from './codec/model.ts';
import type { DataType, Graph, Tensor, ValueType } from './ir.ts';
import { fromNumbers, fromTyped, numel, type TypedArray, toNumbers, typedView } from './tensor.ts';

/** Opset of test graphs unless told: what lowered graphs promise to need. */
const testOpset = 21;

export type Values = Record<string, Tensor>;
export type Runner = (feeds: Values) => Promise<Values>;

/** A session over a graph without fused operators. Feeds that the graph does not take are ignored. */
export async function load(graph: Graph, opset = testOpset): Promise<Runner> {
  const model = encodeModel({
    irVersion: 10,
    producerName: 'deepspeed-js tests',
    opsets: new Map([
      ['', opset],
      ['com.microsoft', 1],
    ]),
    graph,
    metadata: new Map(),
  });
  const session = await ort.InferenceSession.create(model, {
    graphOptimizationLevel: 'disabled',
    intraOpNumThreads: 1,
    logSeverityLevel: 4,
  });
  return async (feeds) => {
    const inputs: Record<string, ort.Tensor> = {};
    for (const { name } of graph.inputs) {
      const tensor = feeds[name];
      if (tensor === undefined) throw new Error(`no feed for input ${name}`);
      inputs[name] = toRuntime(tensor);
    }
    const results = await session.run(inputs);
    return Object.fromEntries(
      graph.outputs.map(({ name }) => [name, fromRuntime(results[name]!)] as const),
    );
  };
}

export async function run(graph: Graph, feeds: Values, opset = testOpset): Promise<Values> {
  return (await load(graph, opset))(feeds);
}

function toRuntime(tensor: Tensor): ort.Tensor {
  const make = ort.Tensor as unknown as new (
    type: string,
    data: TypedArray,
    dims: readonly number[],
  ) => ort.Tensor;
  return new make(tensor.dtype, typedView(tensor), tensor.dims);
}

function fromRuntime(value: ort.Tensor): Tensor {
  return fromTyped(value.type as DataType, value.dims, (value.data as TypedArray).slice());
}

/** Deterministic numbers in [low, high), different for each seed (a linear congruential generator). */
export function randomNumbers(count: number, seed: number, low = -1, high = 1): number[] {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return low + ((high - low) * state) / 2 ** 32;
  });
}

export function randomTensor(
  { dtype, shape }: Pick<ValueType, 'dtype' | 'shape'>,
  seed: number,
  low = -1,
  high = 1,
): Tensor {
  return fromNumbers(dtype, shape, randomNumbers(numel(shape), seed, low, high));
}

/**
 * Σ weights·output by central differences: its derivative for every element of `feeds[name]`. In float64
 * with step 1e-5 the error is about 1e-10 (truncation h², rounding 1e-16/h).
 */
export async function centralDifferences(
  runner: Runner,
  feeds: Values,
  name: string,
  weights: Readonly<Values>,
  step: number,
): Promise<number[]> {
  const tensor = feeds[name]!;
  const numbers = toNumbers(tensor);
  const objective = async (values: number[]) => {
    const moved = { ...feeds, [name]: fromNumbers(tensor.dtype, tensor.dims, values) };
    const outputs = await runner(moved);
    let total = 0;
    for (const [output, weight] of Object.entries(weights)) {
      const factors = toNumbers(weight);
      toNumbers(outputs[output]!).forEach((value, i) => {
        total += value * factors[i]!;
      });
    }
    return total;
  };
  const gradient: number[] = [];
  for (let i = 0; i < numbers.length; i++) {
    const up = await objective(numbers.with(i, numbers[i]! + step));
    const down = await objective(numbers.with(i, numbers[i]! - step));
    gradient.push((up - down) / (2 * step));
  }
  return gradient;
}

/** ‖a − b‖ / max(‖b‖, floor). */
export function relativeError(a: readonly number[], b: readonly number[], floor = 1e-12): number {
  if (a.length !== b.length) throw new Error(`lengths ${a.length} and ${b.length} differ`);
  const difference = Math.hypot(...a.map((value, i) => value - b[i]!));
  return difference / Math.max(Math.hypot(...b), floor);
}

/**
 * Losses and metrics of the script's own. Those of TensorFlow.js are means over rows; of these nobody knows. A
 * first batch may not tell either: precision is 0 of all rows and of each part of them where nothing is found yet,
 * and a mean over the positive rows is a mean over rows where every part has as many of them. So they are tried on
 * rows that lie worse.
 */
import { numberOf, sliceRows } from './context.ts';
import type { Batch, Core, LayersModel, MetricFunction, Tensor } from './library.ts';
import { differingNumbers } from './verify.ts';

/** A loss or metric, and the output that it is given. */
export interface OwnFunction {
  readonly what: 'loss' | 'metric';
  readonly name: string;
  readonly output: number;
  readonly call: MetricFunction;
}

/** @param builtIn what TensorFlow.js exports: a name is no proof */
export function ownFunctions(
  model: LayersModel,
  builtIn: ReadonlySet<MetricFunction>,
): OwnFunction[] {
  const given = new Set(functionsIn([model.loss, model.metrics]).filter((fn) => !builtIn.has(fn)));
  const losses = model.lossFunctions.map(
    (call, output) => ({ what: 'loss', call, output }) as const,
  );
  // With several outputs each loss is a metric as well.
  const metrics = model.metricsTensors
    .filter(([call]) => !model.lossFunctions.includes(call))
    .map(([call, output]) => ({ what: 'metric', call, output }) as const);
  return [...losses, ...metrics]
    .filter(({ call }) => given.has(call))
    .map((one) => ({ ...one, name: nameOf(one.call) }));
}

/** Bundled code numbers functions of one name: meanSquaredError$1. */
export function nameOf(fn: { readonly name: string }): string {
  return fn.name.replace(/\$\d+$/, '');
}

function functionsIn(value: unknown): MetricFunction[] {
  if (typeof value === 'function') return [value as MetricFunction];
  return typeof value === 'object' && value !== null
    ? Object.values(value).flatMap(functionsIn)
    : [];
}

/** What trying them on a batch's targets came to. */
export interface Trial {
  readonly differences: string[];
  /** False where all rows of a target were alike, so that another batch may tell more. */
  readonly settled: boolean;
}

/**
 * Calls each on the batch's targets, sorted, so that two parts have little in common, and on outputs some of which
 * are right, and some wrong: whole, and in two parts. Every rank does the same, and comes to the same.
 */
export function tryOnParts(
  core: Core,
  model: LayersModel,
  own: readonly OwnFunction[],
  batch: Batch,
): Trial {
  const differences: string[] = [];
  let settled = true;
  for (const { what, name, output, call } of own) {
    core.tidy(() => {
      const target = batch[model.inputs.length + output]!;
      const sums = rowSums(target);
      settled &&= sums.some((sum) => sum !== sums[0]);
      const rows = sorted(core, target, sums);
      const outputs = outputsFor(core, rows, model.outputs[output]!.shape);
      if (!outputs) return;
      const of = (start: number, count: number) => {
        const part = { start, count, total: sums.length };
        return numberOf(
          core.mean(call(sliceRows(core, rows, part), sliceRows(core, outputs, part))),
        );
      };
      const total = sums.length;
      const numbers = attempt(() => {
        const whole = of(0, total);
        // What draws numbers, or counts its calls, is never the same twice.
        if (whole !== of(0, total)) return null;
        // Two ways to cut: what is no mean may happen to be one of some parts.
        const parts = [Math.max(1, Math.floor(total / 3)), total - 1].map(
          (first) => (of(0, first) * first + of(first, total - first) * (total - first)) / total,
        );
        return { whole, parts };
      });
      if (!numbers) return;
      const label = `the ${what} ${name || '(anonymous)'} of rows made up for a trial`;
      const found = numbers.parts
        .filter((part) => Number.isFinite(part) && Number.isFinite(numbers.whole))
        .flatMap((part) => differingNumbers([label], [numbers.whole], [part]));
      differences.push(...found.slice(0, 1));
    });
  }
  return { differences, settled };
}

/** A function may refuse what no model gives it. */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch {
    return null;
  }
}

function rowSums(tensor: Tensor): number[] {
  const rows = tensor.shape[0]!;
  const width = tensor.size / rows;
  const values = tensor.dataSync();
  return Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    // Weighted by place, so that the sums of one-hot rows tell their classes apart.
    for (let at = 0; at < width; at += 1) sum += (at + 1) * values[row * width + at]!;
    return sum;
  });
}

function sorted(core: Core, tensor: Tensor, sums: readonly number[]): Tensor {
  const order = sums.map((_, row) => row).sort((a, b) => sums[b]! - sums[a]!);
  const width = tensor.size / sums.length;
  const values = tensor.dataSync();
  const moved = values.slice();
  for (const [to, from] of order.entries()) {
    moved.set(values.subarray(from * width, (from + 1) * width), to * width);
  }
  return core.tensor(moved as Float32Array, tensor.shape, tensor.dtype);
}

/** By turns the row's target, another row's, and numbers between 0 and 1; only these where shapes differ. */
function outputsFor(core: Core, target: Tensor, output: readonly (number | null)[]): Tensor | null {
  const shape = output.map((size, axis) => (axis === 0 ? target.shape[0]! : size));
  if (shape.length === target.shape.length) {
    for (const [axis, size] of shape.entries()) shape[axis] = size ?? target.shape[axis]!;
  }
  if (!shape.every((size): size is number => size !== null)) return null;
  const rows = shape[0]!;
  const width = shape.slice(1).reduce((product, size) => product * size, 1);
  const hits = shape.length === target.shape.length && target.size === rows * width;
  const targets = target.dataSync();
  const values = Float32Array.from({ length: rows * width }, (_, index) => {
    const row = Math.floor(index / width);
    if (hits && row % 3 === 0) return targets[index]!;
    if (hits && row % 3 === 1) return targets[(rows - 1 - row) * width + (index % width)]!;
    const wave = Math.sin(index + 1) * 43758.5453;
    return 0.01 + 0.98 * (wave - Math.floor(wave));
  });
  return core.tensor(values, shape);
}

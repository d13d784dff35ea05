import { DeepSpeedError } from '../../errors.ts';
import {
  attribute,
  fromNumbers,
  type Graph,
  inferTypes,
  type Node,
  numel,
  type PlainAttribute,
} from '../../graph/index.ts';
import { lossSum } from './model.ts';
import type { TensorSample } from './sample.ts';

/** What a graph's loss is: an output of its own, or one that is appended. */
export type Loss = OutputLoss | CrossEntropy | SquaredError;

/** The graph computes it. */
export interface OutputLoss {
  type: 'output';
  output: string;
  /** `none`: a loss for each row, or several; the others: one number for the batch. */
  reduction: 'mean' | 'sum' | 'none';
  /** Targets of a sample. */
  count: (sample: TensorSample) => number;
}

/** Over an output [rows, ..., classes] and a field of the samples. */
export interface CrossEntropy {
  type: 'crossEntropy';
  logits: string;
  labels: string;
  ignoreIndex: number;
  shift: boolean;
}

/** Over an output and a field of the samples with as many elements. */
export interface SquaredError {
  type: 'meanSquaredError';
  prediction: string;
  targets: string;
}

/**
 * Feed that an appended loss is multiplied by: [] for a loss that is one number, [rows] for losses by
 * row, the targets' shape for meanSquaredError. 0 for filler and padding.
 */
export const lossWeight = 'loss_weight';

/** Appends the sum over an output's elements: one number to start backward from. */
export function sumOfLosses(graph: Graph, output: string): Graph {
  const nodes = new Appended(graph);
  nodes.add('ReduceSum', [output], { keepdims: 0 }, lossSum);
  return nodes.graph();
}

/**
 * Appends `loss_sum` for a batch with these feeds. `parameters` are initializers whose values do not
 * matter.
 *
 * @throws SHAPE_MISMATCH when labels or targets do not fit the output that they are compared with
 */
export function appendLoss(
  graph: Graph,
  loss: Loss,
  feeds: Readonly<Record<string, readonly number[]>>,
  parameters: ReadonlySet<string>,
): Graph {
  const inputs = Object.fromEntries(
    graph.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name]]] : [])),
  );
  const types = inferTypes(graph, { inputs, variables: parameters });
  const shapeOf = (output: string) => types.get(output)!.shape;
  const nodes = new Appended(graph);
  switch (loss.type) {
    case 'crossEntropy':
      crossEntropy(nodes, loss, shapeOf(loss.logits), feeds[loss.labels]!);
      break;
    case 'meanSquaredError':
      squaredError(nodes, loss, shapeOf(loss.prediction), feeds[loss.targets]!);
      break;
    default:
      weightedOutput(nodes, loss, shapeOf(loss.output), feeds[lossWeight]!);
  }
  return nodes.graph();
}

/** Logits [rows, d..., C] and labels [rows, d...]. */
function crossEntropy(
  nodes: Appended,
  { logits, labels, ignoreIndex }: CrossEntropy,
  shape: readonly number[],
  given: readonly number[],
): void {
  const expected = shape.slice(0, -1);
  if (expected.join() !== given.join()) throw unfit(logits, shape, labels, expected, given);
  nodes.input(labels, 'int64', given);
  const rows = nodes.reshape(logits, [-1, shape.at(-1)!]);
  const classes = nodes.reshape(labels, [-1]);
  const losses = nodes.add('SoftmaxCrossEntropyLoss', [rows, classes], {
    reduction: 'none',
    ignore_index: ignoreIndex,
  });
  nodes.add('ReduceSum', [losses], { keepdims: 0 }, lossSum);
}

/** Prediction and targets with equally many elements a row. */
function squaredError(
  nodes: Appended,
  { prediction, targets }: SquaredError,
  shape: readonly number[],
  given: readonly number[],
): void {
  if (shape[0] !== given[0] || numel(shape) !== numel(given)) {
    throw unfit(prediction, shape, targets, shape, given);
  }
  nodes.input(targets, 'float32', given);
  nodes.input(lossWeight, 'float32', given);
  const error = nodes.add('Sub', [nodes.reshape(prediction, given), targets]);
  const squares = nodes.add('Mul', [error, error]);
  nodes.add('ReduceSum', [nodes.add('Mul', [squares, lossWeight])], { keepdims: 0 }, lossSum);
}

function weightedOutput(
  nodes: Appended,
  { output, reduction }: OutputLoss,
  shape: readonly number[],
  weight: readonly number[],
): void {
  if (reduction !== 'none' && numel(shape) !== 1) {
    throw new DeepSpeedError(
      'SHAPE_MISMATCH',
      `loss output '${output}' has shape [${shape.join(', ')}], but its reduction is "${reduction}", which leaves one number`,
      { fix: 'Set reduction to "none" for losses by row.' },
    );
  }
  if (reduction === 'none' && shape[0] !== weight[0]) {
    throw new DeepSpeedError(
      'SHAPE_MISMATCH',
      `loss output '${output}' has shape [${shape.join(', ')}]; losses by row begin with the ${weight[0]} rows of the batch`,
      { fix: 'Set reduction to "mean" or "sum" for a loss that is one number.' },
    );
  }
  nodes.input(lossWeight, 'float32', weight);
  const columns = reduction === 'none' ? shape.map((size, axis) => (axis === 0 ? size : 1)) : shape;
  const weights = nodes.reshape(lossWeight, columns);
  nodes.add('ReduceSum', [nodes.add('Mul', [output, weights])], { keepdims: 0 }, lossSum);
}

function unfit(
  output: string,
  shape: readonly number[],
  targets: string,
  expected: readonly number[],
  given: readonly number[],
): DeepSpeedError {
  const text = (dims: readonly number[]) => `[${dims.join(', ')}]`;
  return new DeepSpeedError(
    'SHAPE_MISMATCH',
    `output '${output}' ${text(shape)} needs '${targets}' of shape ${text(expected)}, and the samples give ${text(given)} (rows first)`,
    {
      fix: 'Give a target for each prediction; lengths are padded alike when their input has a padValue.',
    },
  );
}

/** Nodes behind a graph's own. */
class Appended {
  readonly #source: Graph;
  readonly #nodes: Node[] = [];
  readonly #inputs: Graph['inputs'] = [];
  readonly #constants: Graph['initializers'] = new Map();

  constructor(source: Graph) {
    this.#source = source;
  }

  /** Declares an input, unless the graph has it. */
  input(name: string, dtype: 'int64' | 'float32', shape: readonly number[]): void {
    if (this.#source.inputs.some((input) => input.name === name)) return;
    this.#inputs.push({ name, dtype, shape });
  }

  add(
    opType: string,
    inputs: string[],
    attributes: Record<string, PlainAttribute> = {},
    output = `loss/${opType}.${this.#nodes.length}`,
  ): string {
    const segment = this.#source.nodes.at(-1)?.metadata?.segment;
    this.#nodes.push({
      name: output,
      opType,
      domain: '',
      inputs,
      outputs: [output],
      attributes: Object.fromEntries(
        Object.entries(attributes).map(([name, value]) => [name, attribute(name, value)]),
      ),
      ...(segment !== undefined && { metadata: { segment } }),
    });
    return output;
  }

  reshape(value: string, dims: readonly number[]): string {
    const shape = `loss/shape[${dims}]`;
    this.#constants.set(shape, fromNumbers('int64', [dims.length], dims));
    return this.add('Reshape', [value, shape]);
  }

  graph(): Graph {
    const { inputs, outputs, initializers, nodes } = this.#source;
    return {
      ...this.#source,
      inputs: [...inputs, ...this.#inputs],
      outputs: [{ name: lossSum, dtype: 'float32', shape: [] }, ...outputs],
      initializers: new Map([...initializers, ...this.#constants]),
      nodes: [...nodes, ...this.#nodes],
    };
  }
}

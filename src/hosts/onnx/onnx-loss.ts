import { DeepSpeedError } from '../../errors.ts';
import type { Graph } from '../../graph/index.ts';
import { nearest, refuseUnknownKeys } from '../../nearest.ts';
import { ignoreIndex } from './causal-lm-batch.ts';
import type { Loss } from './loss.ts';
import type { TensorSample } from './sample.ts';

/** What a model is trained for. Names of fields are those of samples, other names the graph's outputs. */
export type LossOption =
  | {
      /** The graph computes the loss itself. */
      type: 'output';
      output: string;
      /**
       * `mean` or `sum`: one number for the batch; `none`: the first axis is the rows'. Default: by the
       * output's declared shape, `mean` for one without dimensions.
       */
      reduction?: 'mean' | 'sum' | 'none';
      /**
       * Targets of a sample, which a step's loss is the mean over: tokens that are not ignored, for a
       * loss that is a mean over tokens. Default: 1, the mean over samples.
       */
      count?: (sample: TensorSample) => number;
    }
  | {
      /** Softmax cross-entropy, mean over the labels that are not ignored. */
      type: 'crossEntropy';
      /** Output [rows, ..., classes]. Default: `logits`, or the only output. */
      logits?: string;
      /** Field with a class for each prediction. Default: `labels`. */
      labels?: string;
      /** The label that counts for nothing. Default: -100. */
      ignoreIndex?: number;
      /** Each position predicts the label of the next one: a causal language model. Default: false. */
      shift?: boolean;
    }
  | {
      /** Mean over all elements of (prediction − target)². */
      type: 'meanSquaredError';
      /** Default: the only output. */
      prediction?: string;
      /** Field with as many numbers as a row of the prediction. Default: `targets`. */
      targets?: string;
    };

/** The keys that each type of loss takes. */
const lossKeys: { readonly [T in LossOption['type']]: readonly string[] } = {
  output: ['type', 'output', 'reduction', 'count'],
  crossEntropy: ['type', 'logits', 'labels', 'ignoreIndex', 'shift'],
  meanSquaredError: ['type', 'prediction', 'targets'],
};

/**
 * Fills in the defaults from the graph's outputs.
 *
 * @throws ARGUMENTS_INVALID for a type or key that does not exist, and when the graph leaves open what
 *   is meant
 */
export function resolveLoss(
  graph: Graph,
  option: string | LossOption | undefined,
  path: string,
): Loss {
  const given: LossOption | undefined =
    typeof option === 'string' ? { type: 'output', output: option } : option;
  if (given) requireKnownLoss(given);
  switch (given?.type) {
    case 'crossEntropy':
      return {
        type: 'crossEntropy',
        logits: given.logits ?? defaultOutput(graph, path, 'logits'),
        labels: given.labels ?? 'labels',
        ignoreIndex: given.ignoreIndex ?? ignoreIndex,
        shift: given.shift ?? false,
      };
    case 'meanSquaredError':
      return {
        type: 'meanSquaredError',
        prediction: given.prediction ?? defaultOutput(graph, path, 'prediction'),
        targets: given.targets ?? 'targets',
      };
    case 'output':
    case undefined: {
      const output = given?.output ?? 'loss';
      const reduction = given?.reduction ?? declaredReduction(graph, output, path);
      return { type: 'output', output, reduction, count: given?.count ?? (() => 1) };
    }
  }
}

function requireKnownLoss(given: LossOption): void {
  const types = Object.keys(lossKeys);
  const { type } = given;
  if (!types.includes(type)) {
    const near = typeof type === 'string' ? nearest(type, types) : undefined;
    const hint = near === undefined ? '' : `; did you mean "${near}"?`;
    throw open(
      `loss type ${JSON.stringify(type)} is none of output, crossEntropy, meanSquaredError${hint}`,
    );
  }
  refuseUnknownKeys(given, lossKeys[type], `loss type "${type}"`);
}

/** The graph's output that the loss is, or is computed from. */
export function lossOutput(loss: Loss): string {
  if (loss.type === 'output') return loss.output;
  return loss.type === 'crossEntropy' ? loss.logits : loss.prediction;
}

function defaultOutput(graph: Graph, path: string, option: string): string {
  const names = graph.outputs.map(({ name }) => name);
  if (names.includes(option)) return option;
  if (names.length === 1) return names[0]!;
  throw open(
    `${path} has the outputs ${names.join(', ')}: say which one is meant by loss.${option}`,
  );
}

function declaredReduction(graph: Graph, output: string, path: string): 'mean' | 'none' {
  const found = graph.outputs.find(({ name }) => name === output);
  if (!found) {
    const names = graph.outputs.map(({ name }) => name).join(', ');
    throw open(
      `${path} has no output '${output}' to minimise; it has ${names}`,
      "Name the loss output, or append one: loss: { type: 'crossEntropy', logits: 'OUTPUT', labels: 'labels' } or { type: 'meanSquaredError', prediction: 'OUTPUT', targets: 'targets' }.",
    );
  }
  if (found.shape === undefined) {
    throw open(
      `${path} does not declare the shape of '${output}': give loss.reduction, "mean" or "sum" for one number, "none" for losses by row`,
    );
  }
  return found.shape.length === 0 || found.shape.every((dim) => dim === 1) ? 'mean' : 'none';
}

function open(message: string, fix?: string): DeepSpeedError {
  return new DeepSpeedError('ARGUMENTS_INVALID', message, fix === undefined ? {} : { fix });
}

/** The graph that training differentiates: token ids and labels in, one loss per position out. */
import { GraphBuilder } from '../graph/builder.ts';
import type { Dim, Graph, Tensor } from '../graph/ir.ts';
import { DeepSpeedError } from '../errors.ts';
import { type ModelConfig, modelParameters } from './config.ts';
import { arange, causalMask, type Flow } from './flow.ts';
import { gpt2Logits } from './gpt2.ts';
import { llamaLogits } from './llama.ts';
import type { ParameterSpec } from './parameters.ts';

/** The operator set of every graph made here: that of ONNX 1.16. */
export const onnxOpset = 21;

/** Operator sets of a training graph: with ONNX Runtime's own operators. */
export const modelOpsets: ReadonlyMap<string, number> = new Map([
  ['', onnxOpset],
  ['com.microsoft', 1],
]);

/** The label that counts for nothing. */
export const ignoreIndex = -100;

export interface TrainingGraphOptions {
  /** A number fixes the dimension; default: the symbols `batch_size` and `sequence_length`. */
  batchSize?: Dim;
  sequenceLength?: Dim;
  /** Adds the input `attention_mask` int64 [B, S], 0 for padding. Only left padding needs it. */
  attentionMask?: boolean;
  /** Default true: the config's dropout ratios. False builds the model as evaluation runs it. */
  dropout?: boolean;
  /**
   * The initializers' values. Default: none, `data` is empty; who runs the graph binds them.
   */
  parameters?: ReadonlyMap<string, Tensor>;
}

/**
 * Inputs: `input_ids` int64 [B, S]; `labels` int64 [B, S], **already shifted** (labels[b, t] is what
 * position t must predict; -100 counts for nothing); `attention_mask` when asked for.
 * Outputs: `loss` float32 [B, S], the cross-entropy in nats of each position and 0 where it does not
 * count; `logits` float32 [B, S, vocabulary].
 *
 * Parameters are initializers with their Hugging Face names and layouts. No weight is copied or
 * transposed at run time: [in, out] ones enter MatMul, [out, in] ones com.microsoft.FusedMatMul with
 * transB. Positions count from 0 in every row, as transformers' forward pass does without position_ids.
 *
 * @throws MODEL_CONFIG_INVALID when a fixed sequenceLength exceeds GPT-2's position embeddings.
 */
export function buildTrainingGraph(config: ModelConfig, options: TrainingGraphOptions = {}): Graph {
  const shape: [Dim, Dim] = [
    options.batchSize ?? 'batch_size',
    options.sequenceLength ?? 'sequence_length',
  ];
  checkLength(config, shape[1]);
  const b = new GraphBuilder(config.modelType);
  const inputIds = b.input('input_ids', 'int64', shape);
  const labels = b.input('labels', 'int64', shape);
  const padding = options.attentionMask ? b.input('attention_mask', 'int64', shape) : undefined;
  addParameters(b, modelParameters(config), options.parameters);
  const flow: Flow = {
    b,
    positions: arange(b, inputIds),
    positionsPerSequence: false,
    mask: causalMask(b, inputIds, padding),
    linear: (x, weight, output) => fusedMatMul(b, x, weight, 1, output),
    matmulTransposed: (left, right, alpha) => fusedMatMul(b, left, right, alpha),
    withCache: (_layer, keys, values) => ({ keys, values }),
    dropout: (x, ratio) =>
      ratio === 0 || options.dropout === false ? x : trainingDropout(b, x, ratio),
  };
  const logits = modelLogits(flow, config, inputIds);
  const loss = b.segment('head', () => tokenLosses(b, logits, labels, config.vocabSize));
  b.output(loss, 'float32', shape);
  b.output(logits, 'float32', [...shape, config.vocabSize]);
  return b.build();
}

/** The model's own part of any graph: int64 [B, S] → `logits` float32 [B, S, vocabulary]. */
export function modelLogits(flow: Flow, config: ModelConfig, inputIds: string): string {
  return config.modelType === 'gpt2'
    ? gpt2Logits(flow, config, inputIds)
    : llamaLogits(flow, config, inputIds);
}

/** Declares the parameters; those without a value have type and shape only. */
export function addParameters(
  b: GraphBuilder,
  specs: readonly ParameterSpec[],
  values?: ReadonlyMap<string, Tensor>,
): void {
  for (const { name, shape } of specs) {
    b.initializer(name, values?.get(name) ?? withoutValues(shape));
  }
}

/** A parameter may be larger than any array: nothing is allocated for one that is bound later. */
function withoutValues(dims: readonly number[]): Tensor {
  return { dtype: 'float32', dims, data: new Uint8Array(0) };
}

function fusedMatMul(
  b: GraphBuilder,
  left: string,
  right: string,
  alpha: number,
  output?: string,
): string {
  const options = { domain: 'com.microsoft', ...(output === undefined ? {} : { output }) };
  return b.op('FusedMatMul', [left, right], { transB: 1, alpha }, options);
}

function trainingDropout(b: GraphBuilder, x: string, ratio: number): string {
  const on = b.constant('bool', [], [1]);
  return b.op('Dropout', [x, b.constant('float32', [], [ratio]), on]);
}

function tokenLosses(b: GraphBuilder, logits: string, labels: string, vocabSize: number): string {
  const rows = b.op('Reshape', [logits, b.constant('int64', [2], [-1, vocabSize])]);
  const targets = b.op('Reshape', [labels, b.constant('int64', [1], [-1])]);
  const losses = b.op('SoftmaxCrossEntropyLoss', [rows, targets], {
    reduction: 'none',
    ignore_index: ignoreIndex,
  });
  return b.op('Reshape', [losses, b.op('Shape', [labels])], {}, { output: 'loss' });
}

function checkLength(config: ModelConfig, length: Dim): void {
  if (config.modelType !== 'gpt2' || typeof length === 'string') return;
  if (length <= config.maxPositions) return;
  throw new DeepSpeedError(
    'MODEL_CONFIG_INVALID',
    `sequences of ${length} tokens, but the model has ${config.maxPositions} positions (n_positions)`,
    { fix: 'Use shorter sequences, or a model with more positions.' },
  );
}

/** The Trainer over transformers.js models: `deepspeed-js/transformers`. */
export type { ResolvedArguments, TrainingArguments } from './trainer/arguments.ts';
export {
  type CallbackContext,
  earlyStopping,
  type LogEntry,
  type TrainerCallback,
  type TrainerControl,
  type TrainerState,
} from './trainer/callbacks.ts';
export {
  type Dataset,
  type AnySample,
  type MapDataset,
  type Sample,
  type TensorSample,
  tokenBlocks,
  unigramEntropy,
} from './trainer/dataset.ts';
export type { EvaluationMetrics, Prediction } from './trainer/evaluation.ts';
export type { Batch, CollateOptions, Feed } from './hosts/onnx/batch.ts';
export { AutoModelForCausalLM } from './hosts/onnx/causal-lm.ts';
export type { ParameterInfo, TrainableModel } from './hosts/onnx/model.ts';
export type { LossOption } from './hosts/onnx/onnx-loss.ts';
export {
  type OnnxInputOptions,
  OnnxModel,
  type OnnxModelOptions,
} from './hosts/onnx/onnx-model.ts';
export type { SampleValue } from './hosts/onnx/sample.ts';
export {
  type AttendingRows,
  type AttentionInputs,
  type AttentionTensor,
  type LayoutMaker,
  SparseSelfAttention,
  type SparseSelfAttentionOptions,
} from './hosts/onnx/sparse-self-attention.ts';
export type { TrainOutput } from './trainer/train-loop.ts';
export { Trainer, type TrainerOptions } from './trainer/trainer.ts';
export {
  loadTokenizer,
  type Tokenizer,
  type TrainTokenizerOptions,
  trainTokenizer,
} from './models/index.ts';

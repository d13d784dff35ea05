/** The Trainer over transformers.js models: `deepspeed-js/transformers`. */
export type { TrainingArguments, TrainingArgumentsInput } from './hosts/onnx/arguments.ts';
export {
  type CallbackContext,
  earlyStopping,
  type LogEntry,
  type TrainerCallback,
  type TrainerControl,
  type TrainerState,
} from './hosts/onnx/callbacks.ts';
export {
  type Dataset,
  type MapDataset,
  type Sample,
  tokenBlocks,
  unigramEntropy,
} from './hosts/onnx/dataset.ts';
export type { EvaluationMetrics, Prediction } from './hosts/onnx/evaluation.ts';
export {
  AutoModelForCausalLM,
  type ParameterInfo,
  type TrainableModel,
} from './hosts/onnx/model.ts';
export type { TrainOutput } from './hosts/onnx/train-loop.ts';
export { Trainer, type TrainerOptions } from './hosts/onnx/trainer.ts';
export {
  loadTokenizer,
  type Tokenizer,
  type TrainTokenizerOptions,
  trainTokenizer,
} from './models/index.ts';

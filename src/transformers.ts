/** The Trainer over transformers.js models: `deepspeed-js/transformers`. */
export type { TrainingArguments, TrainingArgumentsInput } from './trainer/arguments.ts';
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
  type MapDataset,
  type Sample,
  tokenBlocks,
  unigramEntropy,
} from './trainer/dataset.ts';
export type { EvaluationMetrics, Prediction } from './trainer/evaluation.ts';
export {
  AutoModelForCausalLM,
  type ParameterInfo,
  type TrainableModel,
} from './hosts/onnx/model.ts';
export type { TrainOutput } from './trainer/train-loop.ts';
export { Trainer, type TrainerOptions } from './trainer/trainer.ts';
export {
  loadTokenizer,
  type Tokenizer,
  type TrainTokenizerOptions,
  trainTokenizer,
} from './models/index.ts';

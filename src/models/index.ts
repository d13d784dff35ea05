/** Models from Hugging Face configs: graphs to train, weights, tokenizers, exports. */
export { loadModelConfig, type ModelConfig, modelParameters, parseModelConfig } from './config.ts';
export { buildDecoderGraph } from './decoder-graph.ts';
export { exportOnnx, type ExportOnnxOptions } from './export-onnx.ts';
export type { Gpt2Config } from './gpt2-config.ts';
export { initializeParameters, type InitializeOptions, initialValues } from './init.ts';
export type { LlamaConfig } from './llama-config.ts';
export {
  arraySource,
  initialSource,
  type ParameterSource,
  tensorSource,
} from './parameter-source.ts';
export { countParameters, type ParameterSpec } from './parameters.ts';
export { loadPretrained, type PretrainedModel } from './pretrained.ts';
export { SafetensorsFile } from './safetensors.ts';
export { writeSafetensors, type TensorToWrite } from './safetensors-write.ts';
export {
  saveModelConfig,
  saveParameters,
  type SaveParametersOptions,
  saveWeights,
  writable,
} from './save.ts';
export * from './tokenizer/index.ts';
export {
  buildTrainingGraph,
  ignoreIndex,
  modelOpsets,
  type TrainingGraphOptions,
} from './training-graph.ts';

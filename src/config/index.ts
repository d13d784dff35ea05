/** DeepSpeed's `ds_config.json`: read, check, complete, explain. */
export { type AutoValue, type Autos, type TrainerArguments, trainerAutos } from './autos.ts';
export { type BatchSizes, type PartialBatchSizes, solveBatch } from './batch.ts';
export type { Origin } from './check.ts';
export { type Explanation, explainConfig, renderExplanation } from './explain.ts';
export { configJsonSchema } from './json-schema.ts';
export { type OptimizerSettings, optimizerSettings } from './optimizer-settings.ts';
export { type SparsityProblem, sparsityProblems } from './sparsity-rules.ts';
export type { Problem } from './problem.ts';
export { type RawConfig, readConfig, requireSameConfig } from './read.ts';
export { type SectionDefinition, type SectionHandle, defineSection } from './registry.ts';
export { type DeepSpeedConfig, type ResolveContext, resolveConfig } from './resolve.ts';
export { type SparseAttentionValues, sparseAttention } from './sections/sparse-attention.ts';
export { readSparseAttention } from './read-sparse-attention.ts';

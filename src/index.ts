/** deepspeed-js: what strategies, hosts and tools share. The Trainer is in `deepspeed-js/transformers`. */
export { type DeepSpeedConfig, defineSection, readConfig, resolveConfig } from './config/index.ts';
export { DeepSpeedError, type ErrorCode, errorCodes } from './errors.ts';
export { requireCapability } from './hooks/index.ts';
export type {
  Capability,
  GradientOwner,
  Host,
  HostParameter,
  Lifecycle,
  OptimizerStepOwner,
  ParameterOwner,
  StepMetrics,
  StepPlan,
} from './hooks/index.ts';
export { LoopEngine } from './hosts/loop/loop-engine.ts';
export type { Gradients } from './hosts/loop/user-arrays.ts';
export { type InitializeOptions, initialize, type LoopParameter } from './hosts/loop/initialize.ts';
export type { OptimizerOption } from './hosts/loop/settings.ts';
export { getRunEnvironment, type RunEnvironment } from './launcher/run-environment.ts';
export type { MemoryAccount, MemoryCategory } from './native/index.ts';
export { applyDataParallel, applyDeepSpeed } from './strategies/deepspeed.ts';
export type { StrategyContext, StrategyPlugin } from './strategies/plugin.ts';
export { registerStrategy } from './strategies/registry.ts';
export { BlockLayout } from './strategies/sparse-attention/block-layout.ts';
export {
  type PaddedSample,
  padToBlockSize,
  type TokenFields,
  unpadOutput,
} from './strategies/sparse-attention/pad-to-block-size.ts';
export {
  BigBirdSparsityConfig,
  BSLongformerSparsityConfig,
  DenseSparsityConfig,
  FixedSparsityConfig,
  LocalSlidingWindowSparsityConfig,
  SparsityConfig,
  VariableSparsityConfig,
} from './strategies/sparse-attention/sparsity-config.ts';

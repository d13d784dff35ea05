/** Every key of a DeepSpeed config: the one table behind checks, types, documentation and schema. */
import { accepted, text, type ValuesOf } from './key.ts';
import { batchKeys } from './sections/batch.ts';
import { checkpointKeys } from './sections/checkpoint.ts';
import { compressionKeys } from './sections/compression.ts';
import { diagnosticKeys } from './sections/diagnostics.ts';
import { gradientKeys } from './sections/gradients.ts';
import { laterKeys } from './sections/later.ts';
import { layerDropKeys } from './sections/layer-drop.ts';
import { monitorKeys } from './sections/monitors.ts';
import { optimizerKeys } from './sections/optimizer.ts';
import { precisionKeys } from './sections/precision.ts';
import { schedulerKeys } from './sections/scheduler.ts';
import { sparseAttentionKeys } from './sections/sparse-attention.ts';
import { tfjsKeys } from './sections/tfjs.ts';
import { zeroKeys } from './sections/zero.ts';

export const table = {
  $schema: accepted(text, null, 'Where the JSON Schema of this file is.', 'read by editors only'),
  ...batchKeys,
  ...optimizerKeys,
  ...schedulerKeys,
  ...gradientKeys,
  ...compressionKeys,
  ...precisionKeys,
  ...zeroKeys,
  ...layerDropKeys,
  ...sparseAttentionKeys,
  ...checkpointKeys,
  ...monitorKeys,
  ...diagnosticKeys,
  ...tfjsKeys,
  ...laterKeys,
};

/** A config with every key filled, before batch sizes are solved. */
export type ConfigValues = ValuesOf<typeof table>;

/** Other names that DeepSpeed itself reads. */
export const aliases: Readonly<Record<string, string>> = { bfloat16: 'bf16' };

/** Names that people write in the wrong place, and where the setting lives. */
export const misplaced: Readonly<Record<string, string>> = {
  'optimizer.params.max_grad_norm': 'gradient_clipping',
  'zero_optimization.enabled': 'zero_optimization.stage',
  'zero_optimization.gradient_clipping': 'gradient_clipping',
  train_micro_batch_size: 'train_micro_batch_size_per_gpu',
  micro_batch_size: 'train_micro_batch_size_per_gpu',
  batch_size: 'train_batch_size',
  learning_rate: 'optimizer.params.lr',
  lr: 'optimizer.params.lr',
  zero_stage: 'zero_optimization.stage',
  stage: 'zero_optimization.stage',
};

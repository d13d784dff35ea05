/** Batch sizes, and what DeepSpeed's own data loader would read. */
import { available, flag, notYet, positiveInteger } from '../key.ts';

export const batchKeys = {
  train_batch_size: available(
    positiveInteger,
    null,
    'Samples per optimizer step, over all ranks and micro batches.',
    { autoFrom: 'the Trainer, from its batch size, accumulation and the number of ranks' },
  ),
  train_micro_batch_size_per_gpu: available(
    positiveInteger,
    null,
    'Samples per micro batch on one rank.',
    { autoFrom: 'the Trainer argument perDeviceTrainBatchSize' },
  ),
  gradient_accumulation_steps: available(
    positiveInteger,
    null,
    'Micro batches per optimizer step.',
    { autoFrom: 'the Trainer argument gradientAccumulationSteps' },
  ),
  managed_gradient_accumulation: notYet(
    flag,
    true,
    'false: the caller says where the accumulation boundary is.',
  ),
  dataloader_drop_last: available(flag, false, 'Drop the last incomplete batch of an epoch.', {
    autoFrom: 'the Trainer argument dataloaderDropLast',
  }),
};

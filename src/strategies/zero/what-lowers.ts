import type { footprintCategories } from './footprint.ts';
import type { ZeroStage } from './stage.ts';

/** The keys and arguments that lower a category of memory, for a run at `stage`. */
export function whatLowers(
  category: (typeof footprintCategories)[number],
  stage: ZeroStage,
): string {
  switch (category) {
    case 'activations':
      return 'gradientCheckpointing or activation_checkpointing.number_checkpoints, or a smaller train_micro_batch_size_per_gpu';
    case 'window':
      return stage === 3
        ? 'zero_optimization.reduce_bucket_size, stage3_prefetch_bucket_size and stage3_max_reuse_distance'
        : stage === 2
          ? 'zero_optimization.reduce_bucket_size'
          : 'zero_optimization.stage 3';
    case 'optimizer':
    case 'master':
      return stage < 1
        ? 'zero_optimization.stage 1 or above'
        : 'offload_optimizer.device "nvme" at zero_optimization.stage 3, or an optimizer.type with fewer states (Lion, SGD)';
    case 'io':
      return 'zero_optimization.sub_group_size and offload_optimizer.buffer_count';
    case 'gradients':
    case 'communication':
      return stage < 2 ? 'zero_optimization.stage 2 or above' : 'bf16.enabled';
    case 'parameters':
      return stage < 3
        ? 'zero_optimization.stage 3'
        : 'bf16.enabled, or offload_param.device "nvme"';
  }
}

/** Checkpoints on disk, and recomputation of activations. */
import {
  accepted,
  available,
  block,
  flag,
  notYet,
  positiveInteger,
  section,
  word,
} from '../key.ts';

export const checkpointKeys = {
  checkpoint: section('Checkpoint files.', {
    tag_validation: available(
      word('Warn', 'Ignore', 'Fail'),
      'Warn',
      'What to do when ranks save under different tags.',
    ),
    load_universal: accepted(
      flag,
      false,
      'Load the universal format.',
      'every checkpoint here loads on another number of ranks',
    ),
    use_node_local_storage: notYet(flag, false, 'One copy of shared files per machine.'),
    parallel_write: section('Which ranks write.', {
      pipeline_stage: accepted(
        flag,
        false,
        'Pipeline stages write in parallel.',
        'all ranks always write their own shard',
      ),
    }),
    writer: block('not yet', "DeepSpeed's fast file writer."),
  }),
  activation_checkpointing: section('Recompute activations in backward instead of storing them.', {
    partition_activations: notYet(
      flag,
      false,
      'Shard stored activations over model-parallel ranks.',
    ),
    cpu_checkpointing: notYet(flag, false, 'Store activations in host memory.'),
    contiguous_memory_optimization: notYet(flag, false, 'Store activations in one buffer.'),
    synchronize_checkpoint_boundary: notYet(flag, false, 'Wait at each stored activation.'),
    profile: notYet(flag, false, 'Time forward and backward of each stored piece.'),
    number_checkpoints: notYet(positiveInteger, null, 'How many activations are stored.'),
  }),
};

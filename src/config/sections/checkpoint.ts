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
    partition_activations: accepted(
      flag,
      false,
      'Shard stored activations over model-parallel ranks.',
      'ranks share no model here: each has activations of its own samples',
    ),
    cpu_checkpointing: accepted(
      flag,
      false,
      'Store activations in host memory.',
      'ranks run on the processor, whose memory is where activations are already',
    ),
    contiguous_memory_optimization: accepted(
      flag,
      false,
      'Store activations in one buffer.',
      'they always are: their places are planned before the first step',
    ),
    synchronize_checkpoint_boundary: accepted(
      flag,
      false,
      'Wait at each stored activation.',
      'segments run in order',
    ),
    profile: notYet(flag, false, 'Time forward and backward of each stored piece.'),
    number_checkpoints: available(
      positiveInteger,
      null,
      'How many activations are stored, segments shared evenly; null: gradientCheckpointing of the Trainer decides.',
      { note: 'in DeepSpeed the model decides what is stored, and this sizes the buffer for it' },
    ),
  }),
};

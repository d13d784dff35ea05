/** Capabilities that DeepSpeed documents and this version does not have. */
import { accepted, block, flag, notYet, positiveInteger, section } from '../key.ts';

const whenOn = 'used only when switched on';

export const laterKeys = {
  compression_training: block('not yet', 'Quantisation, pruning and layer reduction in training.'),
  data_efficiency: block('not yet', 'Curriculum sampling and random token dropping.'),
  curriculum_learning: block('not yet', 'Legacy curriculum by sequence length.'),
  elasticity: block('not yet', 'Batch sizes that suit many numbers of ranks.'),
  autotuning: block('not yet', 'Search for batch size and ZeRO settings.'),
  hybrid_engine: block('not yet', 'Generation between training steps.'),
  compile: block('never', 'DeepCompile.', 'it is a feature of the PyTorch compiler'),
  tensor_parallel: block('not yet', 'Layers split over ranks.'),
  pipeline: block('not yet', 'Pipeline stages.'),
  expert_parallel: section('Experts spread over ranks.', {
    enabled: notYet(flag, false, 'Split experts over ranks.'),
    autoep_size: accepted(positiveInteger, 1, 'Ranks per expert group.', whenOn),
  }),
  sequence_parallel_size: notYet(positiveInteger, 1, 'Ranks that share one sequence.'),
  data_parallel_size: notYet(
    positiveInteger,
    null,
    'Ranks that differ in data only; null: all ranks.',
  ),
  use_data_before_expert_parallelism: notYet(flag, false, 'Order of rank groups with experts.'),
  eigenvalue: block('not yet', 'Curvature of layers, for quantisation schedules.'),
  quantize_training: block('not yet', 'Legacy quantisation schedule.'),
  nebula: block('never', 'Checkpoints on the Azure service.', 'write checkpoints to a folder'),
};

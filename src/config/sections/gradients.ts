/** How gradients are clipped, averaged and communicated. */
import { available, flag, key, nonNegative, notYet, oneOf, positive, word } from '../key.ts';

const floatName = oneOf('fp16', 'bf16', 'fp32');

export const gradientKeys = {
  gradient_clipping: available(
    nonNegative,
    1.0,
    'Clip the global L2 norm of the gradients to this; 0 switches clipping off.',
    { autoFrom: 'the Trainer argument maxGradNorm' },
  ),
  prescale_gradients: available(
    flag,
    false,
    'Divide gradients by the number of ranks before the sum instead of after it.',
  ),
  gradient_predivide_factor: available(
    positive,
    1.0,
    'Divide gradients by this before the sum, and by the rest of the average after it.',
  ),
  gradient_allreduce_op: notYet(
    word('mean', 'sum'),
    'mean',
    'What the reduction over ranks computes.',
  ),
  communication_data_type: available(
    floatName,
    null,
    'Element type of gradients on the wire; null: bf16 or fp16 where enabled, else fp32.',
  ),
  comm_backend: available(
    oneOf('shm', 'mpi'),
    null,
    'What joins the ranks: "mpi" has the launcher start them by MPI on one machine, too; null: shared memory on one machine, MPI between several.',
  ),
  seq_parallel_communication_data_type: notYet(
    floatName,
    'fp32',
    'Element type of sequence-parallel reductions.',
  ),
  sparse_gradients: notYet(flag, false, 'Reduce embedding gradients as (row, value) pairs.'),
  disable_allgather: key(
    'ignored',
    flag,
    false,
    'Replace the all-gather of updated parameters by broadcasts.',
    { note: 'read by DeepSpeed and used nowhere' },
  ),
};

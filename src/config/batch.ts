/**
 * train_batch_size = train_micro_batch_size_per_gpu × gradient_accumulation_steps × ranks. What is
 * missing follows from the rest by DeepSpeed's rule (`runtime/config.py`): floor division, then the
 * product must come out.
 */
import type { Problem } from './problem.ts';

export interface BatchSizes {
  train_batch_size: number;
  train_micro_batch_size_per_gpu: number;
  gradient_accumulation_steps: number;
}

export type PartialBatchSizes = { [K in keyof BatchSizes]: number | null };

/** The three sizes, or the problem with all its factors. */
export function solveBatch(
  {
    train_batch_size,
    train_micro_batch_size_per_gpu,
    gradient_accumulation_steps,
  }: PartialBatchSizes,
  worldSize: number,
): BatchSizes | Problem {
  if (train_batch_size === null && train_micro_batch_size_per_gpu === null) {
    return {
      kind: 'batch',
      path: 'train_batch_size',
      expected:
        'give train_batch_size or train_micro_batch_size_per_gpu; the other and gradient_accumulation_steps follow',
    };
  }
  const accumulation =
    gradient_accumulation_steps ??
    (train_batch_size !== null && train_micro_batch_size_per_gpu !== null
      ? Math.floor(Math.floor(train_batch_size / train_micro_batch_size_per_gpu) / worldSize)
      : 1);
  const micro =
    train_micro_batch_size_per_gpu ??
    Math.floor(Math.floor(train_batch_size! / worldSize) / accumulation);
  const train = train_batch_size ?? micro * accumulation * worldSize;
  if (micro > 0 && accumulation > 0 && train === micro * accumulation * worldSize) {
    return {
      train_batch_size: train,
      train_micro_batch_size_per_gpu: micro,
      gradient_accumulation_steps: accumulation,
    };
  }
  const derived = (given: number | null) => (given === null ? ', derived' : '');
  const step =
    (train_micro_batch_size_per_gpu ?? 1) * (gradient_accumulation_steps ?? 1) * worldSize;
  const below = Math.floor(train / step) * step;
  const choices = [below, below + step].filter((size) => size > 0).join(' or ');
  return {
    kind: 'batch',
    path: 'train_batch_size',
    got: train,
    expected:
      `train_batch_size ${train}${derived(train_batch_size)} is not ` +
      `train_micro_batch_size_per_gpu ${micro}${derived(train_micro_batch_size_per_gpu)} × ` +
      `gradient_accumulation_steps ${accumulation}${derived(gradient_accumulation_steps)} × ` +
      `${worldSize} ranks = ${micro * accumulation * worldSize}; with the sizes given, ` +
      `train_batch_size ${choices} would do`,
  };
}

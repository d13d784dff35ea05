import type { Schedule } from '../schedules/index.ts';
import type { ResolvedArguments } from './arguments.ts';

/**
 * Hugging Face's `lrSchedulerType` schedules (transformers `optimization.py`): a linear warm-up from 0,
 * then linear to 0, half a cosine to 0, or constant. `at(n)` is what optimizer step n, from 0, uses.
 */
export function trainerSchedule(args: ResolvedArguments, totalSteps: number): Schedule {
  const { learningRate, lrSchedulerType: type } = args;
  const warmup =
    type === 'constant' ? 0 : args.warmupSteps || Math.ceil(args.warmupRatio * totalSteps);
  const factor = (step: number): number => {
    if (step < warmup) return step / Math.max(1, warmup);
    const progress = (step - warmup) / Math.max(1, totalSteps - warmup);
    switch (type) {
      case 'linear':
        return Math.max(0, 1 - progress);
      case 'cosine':
        return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
      case 'constant':
      case 'constant_with_warmup':
        return 1;
    }
  };
  return { type, at: (step) => ({ lr: learningRate * factor(step) }) };
}

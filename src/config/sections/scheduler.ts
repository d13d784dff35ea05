/** The five learning-rate schedules; `src/schedules` computes them. */
import {
  available,
  choice,
  flag,
  fraction,
  nonNegative,
  positiveInteger,
  variant,
  wholeNumber,
  word,
} from '../key.ts';

const warmupSteps = available(positiveInteger, 1000, 'Steps of the warm-up; at least 2 are used.', {
  autoFrom: 'the Trainer arguments warmupSteps or warmupRatio',
});
const warmupType = available(word('log', 'linear'), 'log', 'Shape of the warm-up.');
const minLr = available(nonNegative, 0, 'Learning rate at the start of the warm-up.', {
  autoFrom: 'the Trainer, as 0',
});
const maxLr = { autoFrom: 'the Trainer argument learningRate' };
const totalSteps = available(
  positiveInteger,
  null,
  'Optimizer steps of the whole training; required.',
  { autoFrom: 'the Trainer, from the dataset, the batch size and the number of epochs' },
);
const momentum = (value: number, meaning: string) => available(fraction, value, meaning);

export const schedulerKeys = {
  scheduler: choice('The learning-rate schedule. Absent: the host trainer brings its own.', {
    WarmupLR: variant('available', 'Rises to warmup_max_lr, then stays.', {
      warmup_min_lr: minLr,
      warmup_max_lr: available(
        nonNegative,
        null,
        "Learning rate after the warm-up; null: the optimizer's lr.",
        maxLr,
      ),
      warmup_num_steps: warmupSteps,
      warmup_type: warmupType,
    }),
    WarmupDecayLR: variant('available', 'Rises, then falls in a line to 0.', {
      total_num_steps: totalSteps,
      warmup_min_lr: minLr,
      warmup_max_lr: available(nonNegative, 1e-3, 'Learning rate after the warm-up.', maxLr),
      warmup_num_steps: warmupSteps,
      warmup_type: warmupType,
    }),
    WarmupCosineLR: variant('available', "Rises to the optimizer's lr, then falls as a cosine.", {
      total_num_steps: totalSteps,
      warmup_min_ratio: available(fraction, 0, 'Start of the warm-up, as a share of lr.'),
      warmup_num_steps: warmupSteps,
      cos_min_ratio: available(fraction, 1e-4, 'End of the cosine, as a share of lr.'),
      warmup_type: warmupType,
    }),
    LRRangeTest: variant('available', 'Rises without end, to find the largest usable rate.', {
      lr_range_test_min_lr: available(nonNegative, 1e-3, 'Learning rate at the start.'),
      lr_range_test_step_size: available(positiveInteger, 2000, 'Steps per interval.'),
      lr_range_test_step_rate: available(
        nonNegative,
        1,
        'Rise per interval, as a share of the start.',
      ),
      lr_range_test_staircase: available(flag, false, 'Rise in steps instead of a line.'),
    }),
    OneCycle: variant('available', 'One rise and fall, momentum mirrored, then a decay.', {
      cycle_min_lr: available(nonNegative, null, 'Lowest learning rate of the cycle; required.'),
      cycle_max_lr: available(nonNegative, null, 'Highest learning rate of the cycle; required.'),
      decay_lr_rate: available(nonNegative, 0, 'Decay of the rate after the cycle.'),
      cycle_first_step_size: available(positiveInteger, 2000, 'Steps of the rise.'),
      cycle_second_step_size: available(
        wholeNumber,
        null,
        'Steps of the fall; null: as many as of the rise.',
      ),
      cycle_first_stair_count: available(wholeNumber, 0, 'Stairs of the rise; 0: a line.'),
      cycle_second_stair_count: available(
        wholeNumber,
        null,
        'Stairs of the fall; null: as many as of the rise.',
      ),
      decay_step_size: available(wholeNumber, 0, 'Steps per decay interval; 0: no decay.'),
      cycle_momentum: available(flag, true, 'Move momentum against the learning rate.'),
      cycle_min_mom: momentum(0.8, 'Lowest momentum of the cycle.'),
      cycle_max_mom: momentum(0.9, 'Highest momentum of the cycle.'),
      decay_mom_rate: available(nonNegative, 0, 'Rise of the momentum after the cycle.'),
    }),
  }),
};

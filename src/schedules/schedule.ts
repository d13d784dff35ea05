/**
 * DeepSpeed's learning-rate schedules (`runtime/lr_schedules.py`) as pure functions of the optimizer
 * step. `at(n)` is what step n, from 0, uses. DeepSpeed sets a first value when the schedule is
 * made and moves on after every step, so its formulas see k = n − 1, and step 0 its initial value.
 * Steps that an overflow skips do not count.
 */
import type { DeepSpeedConfig } from '../config/index.ts';
import { oneCycle } from './one-cycle.ts';

export interface ScheduleValue {
  lr: number;
  /** OneCycle: replaces both betas of the optimizer. */
  betas?: [number, number];
}

export interface Schedule {
  readonly type: string;
  at(step: number): ScheduleValue;
}

type SchedulerConfig = NonNullable<DeepSpeedConfig['scheduler']>;
type Params<T extends SchedulerConfig['type']> = Extract<SchedulerConfig, { type: T }>['params'];

/**
 * @param config a scheduler section as `resolveConfig` leaves it
 * @param learningRate the optimizer's own rate, which WarmupLR rises to by default and
 *   WarmupCosineLR scales
 */
export function createSchedule(config: SchedulerConfig, learningRate: number): Schedule {
  const { type } = config;
  switch (config.type) {
    case 'WarmupLR':
      return { type, at: warmup(config.params, config.params.warmup_max_lr ?? learningRate) };
    case 'WarmupDecayLR':
      return { type, at: warmupDecay(config.params) };
    case 'WarmupCosineLR':
      return { type, at: warmupCosine(config.params, learningRate) };
    case 'LRRangeTest':
      return { type, at: rangeTest(config.params) };
    case 'OneCycle':
      return { type, at: oneCycle(config.params) };
  }
}

/** The same rate at every step: what a config without a scheduler means. */
export function constantSchedule(learningRate: number): Schedule {
  return { type: 'constant', at: () => ({ lr: learningRate }) };
}

/** γ of the warm-up: 0 at k = 0, 1 from k = N on; logarithmic or linear. */
function rise(k: number, steps: number, type: 'log' | 'linear'): number {
  if (k >= steps) return 1;
  return type === 'log' ? Math.log(k + 1) / Math.log(steps) : k / steps;
}

/** A logarithm to base 1 does not exist: the warm-up has at least two steps. */
const warmupLength = (steps: number) => Math.max(2, steps);

function warmup(params: Params<'WarmupLR'>, maxLr: number): Schedule['at'] {
  const { warmup_min_lr: min, warmup_type: type } = params;
  const steps = warmupLength(params.warmup_num_steps);
  return (step) => ({
    lr: step === 0 ? min : min + (maxLr - min) * rise(step - 1, steps, type),
  });
}

function warmupDecay(params: Params<'WarmupDecayLR'>): Schedule['at'] {
  const { warmup_min_lr: min, warmup_max_lr: max, warmup_type: type } = params;
  const steps = warmupLength(params.warmup_num_steps);
  const total = params.total_num_steps!;
  return (step) => {
    if (step === 0) return { lr: min };
    const k = step - 1;
    const gamma =
      k < steps ? rise(k, steps, type) : Math.max(0, (total - k) / Math.max(1, total - steps));
    return { lr: min + (max - min) * gamma };
  };
}

function warmupCosine(params: Params<'WarmupCosineLR'>, learningRate: number): Schedule['at'] {
  const { warmup_min_ratio: first, cos_min_ratio: last, warmup_type: type } = params;
  const steps = warmupLength(params.warmup_num_steps);
  const total = params.total_num_steps!;
  return (step) => {
    if (step === 0) return { lr: 0 };
    const k = step - 1;
    if (k < steps) return { lr: learningRate * (first + (1 - first) * rise(k, steps, type)) };
    const progress = Math.min(1, (k - steps + 1) / Math.max(1, total - steps));
    const ratio = last + (1 - last) * ((1 + Math.cos(Math.PI * progress)) / 2);
    return { lr: learningRate * Math.max(0, ratio) };
  };
}

function rangeTest(params: Params<'LRRangeTest'>): Schedule['at'] {
  const { lr_range_test_min_lr: min, lr_range_test_step_size: size } = params;
  return (step) => {
    const interval = step / size;
    const passed = params.lr_range_test_staircase ? Math.floor(interval) : interval;
    return { lr: min * (1 + params.lr_range_test_step_rate * passed) };
  };
}

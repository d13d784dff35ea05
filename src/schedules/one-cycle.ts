/** OneCycle: the rate rises and falls once while momentum falls and rises, then both decay. */
import type { DeepSpeedConfig } from '../config/index.ts';
import type { Schedule } from './schedule.ts';

type OneCycleParams = Extract<
  NonNullable<DeepSpeedConfig['scheduler']>,
  { type: 'OneCycle' }
>['params'];

/** What DeepSpeed pairs with the moving first beta. */
const SECOND_BETA = 0.99;

export function oneCycle(params: OneCycleParams): Schedule['at'] {
  const first = params.cycle_first_step_size;
  const second = params.cycle_second_step_size ?? first;
  const total = first + second;
  const minLr = params.cycle_min_lr!;
  const maxLr = params.cycle_max_lr!;
  const { cycle_min_mom: minMom, cycle_max_mom: maxMom } = params;

  /** Height in the cycle, 0 to 1, at k + 1 = `step` steps. */
  function height(step: number): number {
    const offset = step % total;
    const rising = offset <= first;
    const stairs = rising
      ? params.cycle_first_stair_count
      : (params.cycle_second_stair_count ?? params.cycle_first_stair_count);
    const scale = rising ? offset / first : (total - offset) / second;
    return stairs > 0 ? Math.floor(scale * stairs) / stairs : scale;
  }

  return (step) => {
    // DeepSpeed's own initial values: the start of the cycle, with the low momentum.
    if (step === 0) return value(minLr, minMom);
    if (step - 1 < total) {
      const scale = height(step);
      return value(minLr + (maxLr - minLr) * scale, maxMom - (maxMom - minMom) * scale);
    }
    const interval = (step - total) / params.decay_step_size;
    const decays = params.decay_step_size > 0;
    return value(
      decays ? minLr / (1 + params.decay_lr_rate * interval) : minLr,
      decays ? maxMom * (1 + params.decay_mom_rate * interval) : maxMom,
    );
  };

  function value(lr: number, momentum: number): ReturnType<Schedule['at']> {
    return params.cycle_momentum ? { lr, betas: [momentum, SECOND_BETA] } : { lr };
  }
}

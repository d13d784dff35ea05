/** What changes over steps by a rule alone: learning rates and the loss scale. */
export { LossScaler, type LossScaleOptions, type LossScaleState } from './loss-scale.ts';
export {
  type Schedule,
  type ScheduleValue,
  constantSchedule,
  createSchedule,
} from './schedule.ts';

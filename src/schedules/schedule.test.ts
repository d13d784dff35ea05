import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readConfig, resolveConfig } from '../config/index.ts';
import { constantSchedule, createSchedule } from './index.ts';

interface Golden {
  learningRate: number;
  schedules: { type: string; params: object; lr: number[]; betas: [number, number][] | null }[];
}

const golden: Golden = JSON.parse(
  readFileSync(new URL('../../goldens/schedules.json', import.meta.url), 'utf8'),
);

function scheduleOf(type: string, params: object) {
  const raw = readConfig({
    train_batch_size: 1,
    optimizer: { type: 'AdamW' },
    scheduler: { type, params },
  });
  const { scheduler } = resolveConfig(raw, { worldSize: 1 });
  return createSchedule(scheduler!, golden.learningRate);
}

describe('schedules equal DeepSpeed at every step', () => {
  it('covers the five types', () => {
    expect(new Set(golden.schedules.map(({ type }) => type)).size).toBe(5);
  });

  it.each(golden.schedules)('$type $params', ({ type, params, lr, betas }) => {
    const schedule = scheduleOf(type, params);
    lr.forEach((expected, step) => {
      const actual = schedule.at(step);
      // The same float64 formula in another order of operations: a few units in the last place, of the
      // rate the formula starts from.
      const tolerance = 1e-12 * Math.max(...lr);
      expect(Math.abs(actual.lr - expected)).toBeLessThanOrEqual(tolerance);
      expect(actual.betas === undefined).toBe(betas === null);
      actual.betas?.forEach((beta, i) => {
        expect(beta).toBeCloseTo(betas![step]![i]!, 12);
      });
    });
  });
});

it('is a pure function of the step: asking in any order gives the same', () => {
  const schedule = scheduleOf('OneCycle', {
    cycle_min_lr: 0.1,
    cycle_max_lr: 1,
    cycle_first_step_size: 4,
  });
  const forwards = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((step) => schedule.at(step).lr);
  const backwards = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0].map((step) => schedule.at(step).lr);
  expect(backwards.reverse()).toEqual(forwards);
});

it('keeps a constant rate where there is no scheduler', () => {
  expect([0, 1, 1000].map((step) => constantSchedule(0.25).at(step))).toEqual(
    Array(3).fill({ lr: 0.25 }),
  );
});

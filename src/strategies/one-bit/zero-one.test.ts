/** 0/1 Adam: its schedule, what it sends, what ranks agree on, its steps typed out, and exact resume. */
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readConfig, resolveConfig } from '../../config/index.ts';
import {
  type RankResult,
  removeFolders,
  temporaryFolder,
} from '../../trainer/testing/train-ranks.ts';
import { bits, lastLoss, run } from '../testing/short-runs.ts';
import { varianceUpdates, type ZeroOneRules, zeroOneStep } from './zero-one-schedule.ts';

afterAll(removeFolders);

describe('the schedule', () => {
  const kinds = (steps: number, rules: ZeroOneRules) =>
    Array.from({ length: steps }, (_, index) => zeroOneStep(index + 1, rules)[0]).join('');
  const rules = { varFreezeStep: 12, varUpdateScaler: 2, localStepScaler: 6, localStepClipper: 4 };

  it('updates second moments at intervals that double, then exchanges at intervals that do', () => {
    // Steps 1, 2, 3, 5, 7, 11: two intervals of 1, two of 2, one of 4. Then six steps of one, six of
    // two, and sixes of four, the last of which each stage cuts short.
    expect(kinds(36, rules)).toBe(
      'dddcdcdcccdc' + 'eeeeee' + 'lelele' + 'llle' + 'le' + 'llle' + 'le',
    );
  });

  it.each([1, 3, 16])('counts the updates it plans (scaler %i)', (varUpdateScaler) => {
    const long = { ...rules, varFreezeStep: 300, varUpdateScaler };
    let count = 0;
    for (let step = 1; step <= 310; step++) {
      if (zeroOneStep(step, long) === 'dense') count += 1;
      expect(varianceUpdates(step, long).count).toBe(count);
    }
    expect(count).toBeLessThan(300);
  });

  it('never waits longer than the clipper', () => {
    const line = kinds(400, { ...rules, localStepScaler: 10 }).slice(12);
    expect(Math.max(...line.split('e').map((stretch) => stretch.length))).toBe(3);
    expect(kinds(40, { ...rules, localStepClipper: 1 }).slice(12)).toBe('e'.repeat(28));
  });
});

const adam = { lr: 1e-2, weight_decay: 0.01 };
const zeroOne = (params: object) => ({
  optimizer: {
    type: 'ZeroOneAdam',
    params: {
      ...adam,
      var_freeze_step: 8,
      var_update_scaler: 3,
      local_step_scaler: 8,
      local_step_clipper: 4,
      ...params,
    },
  },
});

const callsOf = ({ stats }: RankResult, operation: string): number =>
  stats.filter((entry) => entry.operation === operation).reduce((sum, { calls }) => sum + calls, 0);

describe('0/1 Adam', () => {
  it('is AdamW, bit for bit, while every step updates the second moments', async () => {
    const [ours] = await run({ deepspeed: zeroOne({ var_update_scaler: 6 }), steps: 6 });
    const [dense] = await run({
      deepspeed: { optimizer: { type: 'AdamW', params: adam } },
      steps: 6,
    });
    expect(bits(ours!)).toEqual(bits(dense!));
  });

  it.each([
    // Dense 1, 2, 3, 4, 6, 8; compressed 5, 7; then an exchange each step for 8, every 2, every 4.
    ['until the second moments freeze', {}, 8, 2],
    ['with a longer warm-up', { var_freeze_step: 12 }, 12, 5],
    ['with faster growth', { var_update_scaler: 1 }, 8, 4],
    ['in the first local steps', {}, 16, 2 + 8],
    ['after one doubling', {}, 24, 2 + 8 + 4],
    ['after two', {}, 32, 2 + 8 + 4 + 2],
    ['with a shorter longest interval', { local_step_clipper: 2 }, 32, 2 + 8 + 4 + 4],
    ['with slower growth', { local_step_scaler: 100 }, 32, 2 + 24],
  ])('exchanges as often as planned, %s', async (_, params, steps, exchanges) => {
    const [rank, other] = await run({ deepspeed: zeroOne(params), steps });
    expect(callsOf(rank!, 'allToAll')).toBe(exchanges);
    // All of these end with an exchange or a dense step.
    expect(bits(other!)).toEqual(bits(rank!));
  });

  it('ranks go apart between exchanges, and meet again', async () => {
    const [one, two] = await run({ deepspeed: zeroOne({}), steps: 25 });
    expect(bits(two!)).not.toEqual(bits(one!));
    const [first, ...others] = await run({ deepspeed: zeroOne({}), steps: 28, worldSize: 3 });
    for (const other of others) expect(bits(other)).toEqual(bits(first!));
    expect(first!.metrics.at(-1)!.loss).toBeLessThan(first!.metrics[7]!.loss);
  });

  it('reaches the dense loss', async () => {
    const steps = 40;
    const [ours] = await run({ deepspeed: zeroOne({}), steps });
    const [dense] = await run({
      deepspeed: { optimizer: { type: 'AdamW', params: adam } },
      steps,
    });
    expect(lastLoss(ours!)).toBeLessThan(1.02 * lastLoss(dense!));
  });

  it('alone, with an exchange each step, is 1-bit Adam', async () => {
    const steps = 24;
    const alone = async (deepspeed: Record<string, unknown>) =>
      (await run({ deepspeed, steps, worldSize: 1 }))[0]!;
    // Dense until step 8, as 1-bit Adam is; then moves and momentum are the same but for their scale.
    const ours = await alone(zeroOne({ var_update_scaler: 8, local_step_clipper: 1 }));
    const theirs = await alone({
      optimizer: { type: 'OneBitAdam', params: { ...adam, freeze_step: 8 } },
    });
    expect(callsOf(ours, 'allToAll')).toBe(0);
    // γ·m/γ rounds a momentum twice more, and decay and move are taken off in one rounding each:
    // 2⁻²³ a step, which training amplifies.
    for (const [step, { loss }] of theirs.metrics.entries())
      expect(ours.metrics[step]!.loss / loss).toBeCloseTo(1, 4);
  });

  it.each([6, 16, 18, 26])('resume after step %i equals never stopping', async (saveSteps) => {
    for (const extra of [{}, { bf16: { enabled: true } }]) {
      const outputDir = temporaryFolder();
      const deepspeed = { ...zeroOne({}), ...extra };
      const args = { outputDir, saveStrategy: 'steps' as const, saveSteps };
      const straight = await run({ deepspeed, steps: 30, args });
      const resumed = await run({
        deepspeed,
        steps: 30,
        resumeFromCheckpoint: join(outputDir, `global_step${saveSteps}`),
      });
      for (const [rank, result] of resumed.entries())
        expect(bits(result)).toEqual(bits(straight[rank]!));
    }
  });

  it('another number of ranks starts from the last exchange', async () => {
    const outputDir = temporaryFolder();
    const args = { outputDir, saveStrategy: 'steps' as const, saveSteps: 26 };
    await run({ deepspeed: zeroOne({}), steps: 26, args });
    const [first, ...others] = await run({
      deepspeed: zeroOne({}),
      steps: 32,
      worldSize: 3,
      resumeFromCheckpoint: join(outputDir, 'global_step26'),
    });
    expect(first!.warnings.join()).toContain('local moves of compression starts at zero');
    for (const other of others) expect(bits(other)).toEqual(bits(first!));
  });
});

describe('its config', () => {
  const resolve = (values: object) =>
    resolveConfig(readConfig({ train_batch_size: 8, ...zeroOne({}), ...values }), { worldSize: 2 });

  it('refuses ZeRO and fp16, with the reasons', () => {
    expect(() => resolve({ zero_optimization: { stage: 1 } })).toThrow(/excludes ZeroOneAdam/);
    expect(() => resolve({ fp16: { enabled: true } })).toThrow(/loss scaling skips/);
  });

  it('knows no freeze_step', () => {
    const optimizer = { type: 'ZeroOneAdam', params: { freeze_step: 10 } };
    expect(() => resolve({ optimizer })).toThrow(/freeze_step/);
  });
});

/** 1-bit Adam and LAMB in training: dense until it freezes, little on the wire after, exact on resume. */
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readConfig, resolveConfig } from '../../config/index.ts';
import {
  type RankResult,
  removeFolders,
  temporaryFolder,
} from '../../trainer/testing/train-ranks.ts';
import { bits, lastLoss, run } from '../testing/short-runs.ts';

afterAll(removeFolders);

const optimizer = (type: string, params: object) => ({
  optimizer: { type, params: { weight_decay: 0.01, ...params } },
});
const oneBitOf =
  (type: string, lr = 1e-2) =>
  (freeze_step: number, more: object = {}) =>
    optimizer(type, { lr, freeze_step, ...more });
const oneBit = oneBitOf('OneBitAdam');
const oneBitLamb = oneBitOf('OneBitLamb');

function bytesOf({ stats }: RankResult, operation: string): number {
  return stats
    .filter((entry) => entry.operation === operation)
    .reduce((sum, { bytes, calls }) => sum + bytes * calls, 0);
}

describe.each([
  ['OneBitAdam', 'AdamW', 3, 1e-2],
  // A step of LAMB is a share of the weights' own length: it takes a larger rate to get as far.
  ['OneBitLamb', 'Lamb', 2, 5e-2],
])('%s', (type, denseType, worldSize, learningRate) => {
  const given = { learningRate };
  const oneBit = oneBitOf(type, learningRate);
  const dense = optimizer(denseType, { lr: learningRate });

  it(`is ${denseType}, bit for bit, while it has not frozen`, async () => {
    const [ours] = await run({ deepspeed: oneBit(5), steps: 5, args: given });
    const [whole] = await run({ deepspeed: dense, steps: 5, args: given });
    expect(bits(ours!)).toEqual(bits(whole!));
  });

  it(`${worldSize} ranks keep equal weights and reach the dense loss`, async () => {
    const task = { steps: 40, worldSize, args: given };
    const ranks = await run({ ...task, deepspeed: oneBit(10) });
    const [whole] = await run({ ...task, deepspeed: dense });
    for (const other of ranks.slice(1)) expect(bits(other)).toEqual(bits(ranks[0]!));
    expect(lastLoss(ranks[0]!)).toBeLessThan(1.02 * lastLoss(whole!));
  });

  it.each([{}, { bf16: { enabled: true } }])('%o: resume equals never stopping', async (extra) => {
    const outputDir = temporaryFolder();
    const deepspeed = { ...oneBit(3), ...extra };
    const args = { ...given, outputDir, saveStrategy: 'steps' as const, saveSteps: 6 };
    const straight = await run({ deepspeed, steps: 12, args });
    const resumed = await run({
      deepspeed,
      steps: 12,
      args: given,
      resumeFromCheckpoint: join(outputDir, 'global_step6'),
    });
    for (const [rank, result] of resumed.entries()) {
      expect(bits(result)).toEqual(bits(straight[rank]!));
      expect(result.warnings.join()).not.toContain('error of compression');
    }
  });
});

it('one rank has nobody to tell, and learns with second moments that have stopped', async () => {
  const [alone] = await run({ deepspeed: oneBit(3), steps: 10, worldSize: 1 });
  expect(bytesOf(alone!, 'allToAll')).toBe(0);
  expect(alone!.metrics.at(-1)!.loss).toBeLessThan(alone!.metrics[2]!.loss);
});

it('sends gradients before it freezes only, and a thirtieth of the bytes after', async () => {
  const [short] = await run({ deepspeed: oneBit(4), steps: 4 });
  const [long] = await run({ deepspeed: oneBit(4), steps: 8 });
  const elements = [...short!.parameters.values()].reduce((sum, { length }) => sum + length, 0);
  expect(bytesOf(short!, 'allToAll')).toBe(0);
  // Norms and losses go on being summed: some numbers a step.
  const more = bytesOf(long!, 'allReduce') - bytesOf(short!, 'allReduce');
  expect(more).toBeLessThan(4 * 100);
  const sent = (bytesOf(long!, 'allToAll') + bytesOf(long!, 'allGather')) / 4;
  expect(sent).toBeGreaterThan(0);
  // Two phases; the dense reduction and gathering of 4-byte elements moves 8 bytes an element. The
  // tensors here are as small as 16 elements, each with a scale of its own: a bit less than 25 times.
  expect(sent).toBeLessThan((8 * elements) / 12);
});

it('at another world size the errors start at zero, which is said once', async () => {
  const outputDir = temporaryFolder();
  const args = { outputDir, saveStrategy: 'steps' as const, saveSteps: 6 };
  await run({ deepspeed: oneBitLamb(3), steps: 6, args });
  const resumeFromCheckpoint = join(outputDir, 'global_step6');
  const resumed = await run({
    deepspeed: oneBitLamb(3),
    steps: 8,
    worldSize: 3,
    resumeFromCheckpoint,
  });
  for (const { error } of resumed) expect(error).toBeUndefined();
  const said = resumed.map(({ warnings }) => warnings.join('\n'));
  expect(said[0]).toMatch(/worker error of compression starts at zero: .* written by 2 ranks/);
  expect(said[1]).not.toContain('compression');
  // Ratios are the same on all ranks: those of rank 0 are there for any number of them.
  expect(said[0]).not.toContain('trust ratios');
  for (const other of resumed.slice(1)) expect(bits(other)).toEqual(bits(resumed[0]!));
});

it('what follows the trust ratio after the freeze changes nothing before it', async () => {
  const losses = async (more: object) =>
    (await run({ deepspeed: oneBitLamb(6, more), steps: 10, worldSize: 1 }))[0]!.metrics.map(
      ({ loss }) => loss,
    );
  const [usual, other] = [await losses({}), await losses({ coeff_beta: 0.1, factor_max: 1.01 })];
  expect(other.slice(0, 7)).toEqual(usual.slice(0, 7));
  for (const step of [7, 8, 9]) expect(other[step]).not.toBe(usual[step]);
});

describe('its config', () => {
  const resolve = (values: object, totalSteps?: number) =>
    resolveConfig(readConfig({ train_batch_size: 8, ...values }), {
      worldSize: 2,
      ...(totalSteps !== undefined && { totalSteps }),
    });

  it.each([1, 2])('refuses ZeRO stage %i, with the reason', (stage) => {
    expect(() => resolve({ ...oneBit(3), zero_optimization: { stage } })).toThrow(
      /gathering updated parameters would cost what compression saved/,
    );
  });

  it('warns where compression never begins, and of freeze_step 0', () => {
    const warnings = (freeze: number) => resolve(oneBit(freeze), 100).provenance.warnings.join();
    expect(warnings(99)).toBe('');
    expect(warnings(100)).toContain('freeze_step is 100 and the run has 100 steps');
    expect(warnings(0)).toContain('the first step is dense all the same');
  });

  it('refuses bounds of 1-bit LAMB in the wrong order', () => {
    expect(() => resolve(oneBitLamb(3, { min_coeff: 2, max_coeff: 1 }))).toThrow(
      /2 is above max_coeff 1/,
    );
    expect(() => resolve(oneBitLamb(3, { factor_min: 5 }))).toThrow(/5 is above factor_max 4/);
  });
});

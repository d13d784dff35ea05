/** LAMB in training: ranks agree with each other and with one process, resume is exact, ZeRO is refused. */
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readConfig, resolveConfig } from '../../config/index.ts';
import {
  removeFolders,
  temporaryFolder,
  train,
  trainRanks,
} from '../../trainer/testing/train-ranks.ts';

afterAll(removeFolders);

const lamb = { optimizer: { type: 'Lamb', params: { lr: 1e-2, weight_decay: 0.01 } } };
const maxSteps = 10;

describe('LAMB', () => {
  it('two ranks keep equal weights, and have the losses of one process', async () => {
    const run = (worldSize: number) =>
      trainRanks({
        worldSize,
        args: { maxSteps, deepspeed: lamb, perDeviceTrainBatchSize: 8 / worldSize },
      });
    const [two, [one]] = [await run(2), await run(1)];
    expect(two[1]!.parameters).toEqual(two[0]!.parameters);
    // Sums in another order, to a relative 2⁻²⁴ each, which a few steps of training amplify.
    for (const [step, { loss }] of one!.metrics.entries())
      expect(two[0]!.metrics[step]!.loss / loss).toBeCloseTo(1, 3);
  });

  it('resume equals never stopping, with 16-bit storage, too', async () => {
    for (const extra of [{}, { bf16: { enabled: true } }]) {
      const outputDir = temporaryFolder();
      const deepspeed = { ...lamb, ...extra };
      const save = { saveStrategy: 'steps' as const, saveSteps: 4 };
      const task = { worldSize: 2, args: { maxSteps, deepspeed } };
      const straight = await train({ ...task, args: { ...task.args, ...save, outputDir } });
      const resumed = await train({
        ...task,
        resumeFromCheckpoint: join(outputDir, 'global_step4'),
      });
      expect(resumed.parameters).toEqual(straight.parameters);
    }
  });
});

describe('its config', () => {
  const resolve = (values: object) =>
    resolveConfig(readConfig({ train_batch_size: 8, ...lamb, ...values }), { worldSize: 2 });

  it.each([1, 2])('refuses ZeRO stage %i, with the reason', (stage) => {
    expect(() => resolve({ zero_optimization: { stage } })).toThrow(/shards cut through tensors/);
  });

  it('refuses bounds in the wrong order', () => {
    const params = { min_coeff: 2, max_coeff: 1 };
    expect(() => resolve({ optimizer: { type: 'Lamb', params } })).toThrow(
      /2 is above max_coeff 1/,
    );
  });
});

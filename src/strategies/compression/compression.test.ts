/** Compressed gradients in training: ranks agree, little travels, stages agree, resume is exact. */
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

const optimizer = { optimizer: { type: 'AdamW', params: { lr: 1e-2, weight_decay: 0.01 } } };
const compressed = (compression: object, more: object = {}) => ({
  ...optimizer,
  compression,
  ...more,
});
const int8 = { type: 'int8' };
const topk = { type: 'topk', ratio: 0.1 };
const powersgd = { type: 'powersgd', rank: 2 };

/** Bytes of collectives beside sums of a few numbers, by what each counts for one message. */
function bytesOf({ stats }: RankResult): number {
  return stats
    .filter(({ bytes }) => bytes > 64)
    .reduce((sum, { bytes, calls }) => sum + bytes * calls, 0);
}

describe('compressed gradients', () => {
  const steps = 40;
  const dense = run({ deepspeed: optimizer, steps });

  it.each([
    // The share of what training gains with whole gradients.
    ['int8', int8, 0.95],
    ['topk', { ...topk, start_step: 10 }, 0.75],
    ['powersgd', { ...powersgd, rank: 4, start_step: 10 }, 0.8],
  ])('%s: ranks agree, learn, and send less', async (_, key, share) => {
    const ranks = await run({ deepspeed: compressed(key), steps });
    expect(bits(ranks[1]!)).toEqual(bits(ranks[0]!));
    const [whole] = await dense;
    const gain = (result: RankResult) => result.metrics[0]!.loss - lastLoss(result);
    expect(gain(ranks[0]!)).toBeGreaterThan(share * gain(whole!));
    expect(bytesOf(whole!) / bytesOf(ranks[0]!)).toBeGreaterThan(1.6);
  });

  it('stages 0 and 1 are equal bit for bit, with 16-bit storage, too', async () => {
    for (const more of [{}, { bf16: { enabled: true } }]) {
      const at = (stage: number) =>
        run({
          deepspeed: compressed(int8, { ...more, zero_optimization: { stage } }),
          steps: 4,
          worldSize: 3,
        });
      const [[zero], [one]] = [await at(0), await at(1)];
      expect(bits(one!)).toEqual(bits(zero!));
    }
  });

  it('does not depend on the buckets where no tensors share anything', async () => {
    const [usual] = await run({ deepspeed: compressed(topk), steps: 5 });
    const zero_optimization = { reduce_bucket_size: 500 };
    const [small] = await run({ deepspeed: compressed(topk, { zero_optimization }), steps: 5 });
    expect(bits(small!)).toEqual(bits(usual!));
  });

  it('is dense, bit for bit, before start_step', async () => {
    const [whole] = await run({ deepspeed: optimizer, steps: 3 });
    const late = { ...powersgd, start_step: 3 };
    const [before] = await run({ deepspeed: compressed(late), steps: 3 });
    expect(bits(before!)).toEqual(bits(whole!));
    const [after] = await run({ deepspeed: compressed(late), steps: 4 });
    const calls = (result: RankResult) => result.stats.reduce((sum, entry) => sum + entry.calls, 0);
    expect(calls(after!)).toBeGreaterThan(calls(before!));
  });

  it('sends less from stage to stage of its warm-up, and then what it always sends', async () => {
    // Of each step after the first one, which is dense.
    const sent = async (steps: number, warmup_steps: number) => {
      const key = { ...topk, ratio: 0.01, start_step: 1, warmup_steps };
      const runs = Array.from({ length: steps + 1 }, (_, step) =>
        run({ deepspeed: compressed(key), steps: step + 1 }),
      );
      const bytes = (await Promise.all(runs)).map(([rank]) => bytesOf(rank!));
      return bytes.slice(1).map((total, index) => total - bytes[index]!);
    };
    const [first, second, third, then] = await sent(4, 3);
    const [always] = await sent(1, 0);
    expect(first! / second!).toBeGreaterThan(3.5);
    expect(second! / third!).toBeGreaterThan(3);
    expect(third).toBeGreaterThan(then!);
    expect(then).toBe(always);
  });

  it('one rank has nobody to tell', async () => {
    const alone = (deepspeed: Record<string, unknown>) =>
      run({ deepspeed, steps: 3, worldSize: 1 });
    const [[whole], [ours]] = [await alone(optimizer), await alone(compressed(topk))];
    expect(bits(ours!)).toEqual(bits(whole!));
  });

  it.each([
    ['int8', int8, { zero_optimization: { stage: 1 } }],
    ['topk', topk, { bf16: { enabled: true } }],
    // Within the second stage of three, whose share is above the last.
    ['topk, warming up', { type: 'topk', ratio: 0.01, start_step: 1, warmup_steps: 6 }, {}],
    ['powersgd', powersgd, {}],
  ])('%s: resume equals never stopping', async (_, key, more) => {
    const outputDir = temporaryFolder();
    const deepspeed = compressed(key, more);
    const args = { outputDir, saveStrategy: 'steps' as const, saveSteps: 4 };
    const straight = await run({ deepspeed, steps: 8, args });
    const resumeFromCheckpoint = join(outputDir, 'global_step4');
    const resumed = await run({ deepspeed, steps: 8, resumeFromCheckpoint });
    for (const [rank, result] of resumed.entries()) {
      expect(bits(result)).toEqual(bits(straight[rank]!));
      expect(result.warnings.join()).not.toContain('starts at zero');
    }
  });

  it('at another number of ranks errors start at zero, said once, and factors go on', async () => {
    const outputDir = temporaryFolder();
    const args = { outputDir, saveStrategy: 'steps' as const, saveSteps: 4 };
    await run({ deepspeed: compressed(powersgd), steps: 4, args });
    const resumed = await run({
      deepspeed: compressed(powersgd),
      steps: 6,
      worldSize: 3,
      resumeFromCheckpoint: join(outputDir, 'global_step4'),
    });
    const said = resumed.map(({ warnings }) => warnings.join('\n'));
    expect(said[0]).toContain('the gradient error of compression starts at zero');
    expect(said[0]).not.toContain('power iteration');
    expect(said[1]).not.toContain('compression');
    for (const other of resumed.slice(1)) expect(bits(other)).toEqual(bits(resumed[0]!));
  });
});

describe('its config', () => {
  const resolve = (values: object, totalSteps?: number) =>
    resolveConfig(readConfig({ train_batch_size: 8, ...compressed(int8), ...values }), {
      worldSize: 2,
      ...(totalSteps !== undefined && { totalSteps }),
    });

  it.each([
    ['ZeRO stage 2', { zero_optimization: { stage: 2 } }, /as large as the whole gradient/],
    ['fp16', { fp16: { enabled: true } }, /with the loss scale; use bf16/],
    ['a 16-bit wire', { communication_data_type: 'bf16' }, /decides what travels/],
    ['1-bit Adam', { optimizer: { type: 'OneBitAdam' } }, /sends its momentum/],
    ['an unknown type', { compression: { type: 'int4' } }, /"int8", "topk" or "powersgd"/],
    ['a ratio of 0', { compression: { type: 'topk', ratio: 0 } }, /above 0, at most 1/],
    ['a misspelt key', { compression: { type: 'topk', ration: 0.1 } }, /compression.ratio/],
  ])('refuses %s', (_, values, message) => {
    expect(() => resolve(values)).toThrow(message);
  });

  it('warns of keys of another type, and where compression never begins', () => {
    const warnings = (compression: object) =>
      resolve({ compression }, 100).provenance.warnings.join();
    expect(warnings({ type: 'int8', start_step: 99 })).toBe('');
    expect(warnings({ type: 'int8', rank: 2 })).toContain('type "int8" does not use rank');
    expect(warnings({ type: 'topk', start_step: 100 })).toContain(
      'start_step is 100 and the run has 100 steps',
    );
  });
});

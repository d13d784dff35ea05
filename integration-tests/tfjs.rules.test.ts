/** The rules of docs/tfjs.md that end well: what ranks share, what they draw, hear, save and split. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Cases, difference, overRanks } from './tfjs.run.ts';

const tolerance = 3e-5;
const exact = { tfjs: { exact_random: true } };
const unverified = { verify_first_batch: false };

const seed = { DEEPSPEED_JS_SEED: '7' };
const cases = new Cases(
  {
    // First: what it draws beside the run's own numbers changes nothing that another case draws of these.
    dropout: { name: 'dropout' },
    unseeded: { name: 'unseeded', deepspeed: exact },
    seededDropout: { name: 'seededDropout' },
    ownSeed: { name: 'ownSeed' },
    ownSeedExact: { name: 'ownSeed', deepspeed: exact },
    precisionVouchedFor: {
      name: 'precisionVouchedFor',
      deepspeed: { tfjs: { declared: ['precision'] } },
    },
    ownMetric: { name: 'ownMetric' },
    vouchedFor: { name: 'ownMetric', deepspeed: { tfjs: { ...unverified, declared: [''] } } },
    // Nobody looks, and nothing splits: the reason why the check is on by default.
    blind: {
      name: 'maxMetric',
      deepspeed: { tfjs: { ...unverified, declared: ['largestError'] } },
    },
    stopOfRank0: { name: 'stopOfRank0' },
    rateOfRank0: { name: 'rateOfRank0' },
    rateOfRank0Alone: { name: 'rateOfRank0Alone' },
    logs: { name: 'logs' },
    save: { name: 'save' },
    shard: { name: 'shard' },
  },
  seed,
);
const again = new Cases({ dropout: { name: 'dropout' }, leaks: { name: 'leaks' } }, seed);
const otherSeed = new Cases(
  { dropout: { name: 'dropout' }, unseeded: { name: 'unseeded', deepspeed: exact } },
  { DEEPSPEED_JS_SEED: '8' },
);

let heard: { stdout: string; stderr: string };
beforeAll(async () => {
  await cases.launch(1);
  await cases.launch(2);
  heard = await cases.launch(3);
  await again.launch(2);
  await otherSeed.launch(2);
}, 300_000);
afterAll(() => {
  for (const each of [cases, again, otherSeed]) each.remove();
});

describe('chance', () => {
  it('a script that seeds nothing is one run, whatever the ranks, with exact_random', () => {
    const one = cases.value(1, 'unseeded');
    for (const ranks of [2, 3]) {
      expect(difference(one, cases.value(ranks, 'unseeded'))).toBeLessThan(tolerance);
    }
    expect(difference(one, otherSeed.value(2, 'unseeded'))).toBeGreaterThan(0.01);
  });

  it('masks come from a stream of each rank without it, and training still learns', () => {
    const [one, two] = [1, 2].map((ranks) => cases.value(ranks, 'dropout')) as [
      unknown,
      { history: { loss: number[] } },
    ];
    // The first step is the verified one, whose masks are shared.
    expect(difference(one, two)).toBeGreaterThan(0.01);
    expect(two.history.loss.every(Number.isFinite)).toBe(true);
    expect(difference(again.value(2, 'dropout'), two)).toBe(0);
  });

  it('a dropout layer with a seed keeps its mask', () => {
    const one = cases.value(1, 'seededDropout');
    expect(difference(one, cases.value(3, 'seededDropout'))).toBeLessThan(tolerance);
  });

  it('a script that seeds Math.random itself keeps its numbers', () => {
    const alone = cases.value(1, 'ownSeed');
    for (const ranks of [2, 3]) {
      expect(difference(alone, cases.value(ranks, 'ownSeedExact'))).toBeLessThan(tolerance);
      // Masks of each rank's own: the first step's and those of one rank are the script's.
      const { history } = cases.value(ranks, 'ownSeed') as { history: { loss: number[] } };
      expect(history.loss.every(Number.isFinite)).toBe(true);
    }
  });

  it('DEEPSPEED_JS_SEED is checked', async () => {
    const env = { DEEPSPEED_JS_SEED: 'x' };
    const { status, stderr } = await overRanks(1, 'rules.ts', ['plain'], { env });
    expect(status).not.toBe(0);
    expect(stderr).toContain('must be a whole number');
  });
});

it("functions of the script's own split where the check says so, or somebody vouches for them", () => {
  const plain = cases.value(1, 'ownMetric');
  expect(difference(plain, cases.value(2, 'ownMetric'))).toBeLessThan(tolerance);
  expect(difference(plain, cases.value(2, 'vouchedFor'))).toBeLessThan(tolerance);
  expect(difference(cases.value(1, 'blind'), cases.value(2, 'blind'))).toBeGreaterThan(tolerance);
});

it('a metric that somebody vouches for is no longer compared; the loss is', () => {
  const one = cases.value(1, 'precisionVouchedFor');
  expect(difference(one, cases.value(2, 'precisionVouchedFor'))).toBeLessThan(tolerance);
});

describe('callbacks', () => {
  it('stopTraining follows rank 0', () => {
    expect(cases.value(3, 'stopOfRank0')).toBe(2);
  });

  it('the learning rate follows rank 0', () => {
    const one = cases.value(1, 'rateOfRank0Alone');
    expect(difference(one, cases.value(2, 'rateOfRank0'))).toBeLessThan(tolerance);
  });

  it('all ranks see the same bits, and one of them is heard', () => {
    const { stdout, stderr } = heard;
    expect(stderr.match(/install our node backend/g)).toHaveLength(1);
    expect(stdout.match(/rank 0 is heard/g)).toHaveLength(1);
    const logs = [0, 1, 2].map((rank) => readFileSync(join(cases.folder, `logs-${rank}`), 'utf8'));
    expect(logs[0]).toContain('val_mae');
    expect(logs[1]).toBe(logs[0]);
    expect(logs[2]).toBe(logs[0]);
  });
});

it('model.save: rank 0 writes what all get; functions run on all', () => {
  const { saved, loaded } = cases.value(2, 'save') as Record<string, unknown>;
  expect(loaded).toEqual(saved);
  const reports = [0, 1].map((rank) => readFileSync(join(cases.folder, `saved-${rank}`), 'utf8'));
  expect(JSON.parse(reports[0]!)).toMatchObject({ handled: 1, bytes: expect.any(Number) });
  expect(reports[1]).toBe(reports[0]);
  const written = readdirSync(join(cases.folder, 'model')).sort();
  expect(written).toEqual(['model.json', 'weights.bin']);
});

it('shard() splits a loop of its own', () => {
  for (const ranks of [2, 3]) {
    const split = cases.value(ranks, 'shard');
    expect(difference(cases.value(1, 'shard'), split)).toBeLessThan(tolerance);
  }
});

it('neither tensors nor memory grow', () => {
  const [{ value }] = again.outcomes(2, 'leaks') as [{ value: number[] }];
  const [first, second, ...rest] = value;
  const grown = rest.pop()!;
  expect(second).toBe(first);
  expect(new Set(rest)).toEqual(new Set([first]));
  // 40 rounds of 13 steps: one gradient of the large layer a step, 256 KiB, would be 130 MiB.
  expect(grown).toBeLessThan(64 * 2 ** 20);
});

/** The rules of docs/tfjs.md: what ranks share, what they refuse, and how they stop. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { difference, overRanks } from './tfjs.run.ts';

const tolerance = 3e-5;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-tfjs-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Options {
  config?: object;
  env?: NodeJS.ProcessEnv;
}

function launch(ranks: number, name: string, { config, env = {} }: Options = {}) {
  const encoded = Buffer.from(JSON.stringify(config ?? {})).toString('base64');
  const flags = config ? ['--deepspeed', encoded] : [];
  return overRanks(ranks, 'rules.ts', [name, folder], { flags, env });
}
async function results(ranks: number, name: string, options?: Options): Promise<unknown> {
  const run = await launch(ranks, name, options);
  if (run.status !== 0) throw new Error(run.stderr);
  return run.results();
}
const known = new Map<string, Promise<unknown>>();
/** What one rank comes to: the same for every test that compares with it, and run once. */
function oneRank(name: string): Promise<unknown> {
  if (!known.has(name)) known.set(name, results(1, name));
  return known.get(name)!;
}
/** What the launcher says of a run that must fail. */
async function refusal(ranks: number, name: string, options?: Options): Promise<string> {
  const { status, stderr } = await launch(ranks, name, options);
  expect(status).not.toBe(0);
  return stderr;
}

describe('chance', () => {
  const seed = { env: { DEEPSPEED_JS_SEED: '7' } };
  const exact = { tfjs: { exact_random: true } };

  it('a script that seeds nothing is one run, whatever the ranks, with exact_random', async () => {
    const one = await results(1, 'unseeded', { ...seed, config: exact });
    for (const ranks of [2, 3]) {
      const many = await results(ranks, 'unseeded', { ...seed, config: exact });
      expect(difference(one, many)).toBeLessThan(tolerance);
    }
    const otherSeed = { env: { DEEPSPEED_JS_SEED: '8' }, config: exact };
    expect(difference(one, await results(2, 'unseeded', otherSeed))).toBeGreaterThan(0.01);
  });

  it('masks come from a stream of each rank without it, and training still learns', async () => {
    const one = (await results(1, 'dropout', seed)) as { history: { loss: number[] } };
    const two = (await results(2, 'dropout', seed)) as { history: { loss: number[] } };
    // The first step is the verified one, whose masks are shared.
    expect(difference(one, two)).toBeGreaterThan(0.01);
    expect(two.history.loss.every(Number.isFinite)).toBe(true);
    expect(difference(await results(2, 'dropout', seed), two)).toBe(0);
  });

  it('a dropout layer with a seed keeps its mask', async () => {
    const one = await results(1, 'seededDropout');
    expect(difference(one, await results(3, 'seededDropout'))).toBeLessThan(tolerance);
  });

  it('DEEPSPEED_JS_SEED is checked', async () => {
    expect(await refusal(1, 'plain', { env: { DEEPSPEED_JS_SEED: 'x' } })).toContain(
      'must be a whole number',
    );
  });
});

describe('refusals', () => {
  it.each([
    ['stateful', 'the layer memory (LSTM) is stateful'],
    ['fixedBatch', 'has the fixed batch size 6'],
    ['precision', 'the metric precision of output 0 is no mean over rows'],
    ['sumLoss', 'loss is 12.39'],
    ['maxMetric', 'largestError is'],
    ['mixedRows', 'the gradient of dense_Dense1/kernel is'],
    ['evaluateMax', 'largestError is'],
    ['otherData', 'at step 3 of sequential_1_model, ranks 0 and 1 see other data'],
    ['otherRows', 'ranks 0 and 1 see batches of 12 and 13 rows'],
    ['oneRankOnly', 'the ranks train different models: parameter 0 is dense_Dense1/kernel'],
    ['minimizeOtherData', "at gradients 1 of the script's own loop, ranks 0 and 1 see other data"],
    ['fewerSteps', 'take other steps'],
    ['notANumber', 'step 3: gradients are not finite: dense_Dense1/kernel on rank 1'],
    ['disposed', 'the variable dense_Dense1/bias was disposed'],
    ['twoStrategies', 'the model sequential_1 has two strategies'],
    ['compiledAgain', 'the model sequential_1 has two strategies'],
    ['lateStrategy', 'the model sequential_1 is trained already'],
    ['sharedOptimizer', 'one optimizer trains two sets of variables'],
    ['saveNowhere', 'cannot save the model in'],
  ])('%s', async (name, text) => {
    expect(await refusal(2, name)).toContain(text);
  });

  it("functions of the script's own need the check, or somebody who vouches for them", async () => {
    const plain = (await results(1, 'ownMetric')) as object;
    expect(difference(plain, await results(2, 'ownMetric'))).toBeLessThan(tolerance);
    const off = { tfjs: { verify_first_batch: false } };
    expect(await refusal(2, 'ownMetric', { config: off })).toContain("is the script's own");
    const declared = { tfjs: { verify_first_batch: false, declared: [''] } };
    const vouched = await results(2, 'ownMetric', { config: declared });
    expect(difference(plain, vouched)).toBeLessThan(tolerance);
    // Nobody looks, and nothing splits: the reason why the check is on by default.
    const blind = { tfjs: { verify_first_batch: false, declared: ['largestError'] } };
    await results(2, 'maxMetric', { config: blind });
  });

  it('misspelt keys of the section', async () => {
    const text = await refusal(2, 'plain', { config: { tfjs: { exact_randomm: true } } });
    expect(text).toContain('exact_randomm');
  });
});

describe('callbacks', () => {
  it('stopTraining follows rank 0', async () => {
    expect(await results(3, 'stopOfRank0')).toBe(2);
  });

  it('the learning rate follows rank 0', async () => {
    const one = await results(1, 'rateOfRank0Alone');
    expect(difference(one, await results(2, 'rateOfRank0'))).toBeLessThan(tolerance);
  });

  it('all ranks see the same bits, and one of them is heard', async () => {
    const { stdout, stderr } = await launch(3, 'logs');
    expect(stderr.match(/install our node backend/g)).toHaveLength(1);
    expect(stdout.match(/rank 0 is heard/g)).toHaveLength(1);
    const logs = [0, 1, 2].map((rank) => readFileSync(join(folder, `logs-${rank}`), 'utf8'));
    expect(logs[0]).toContain('val_mae');
    expect(logs[1]).toBe(logs[0]);
    expect(logs[2]).toBe(logs[0]);
  });
});

describe('endings', () => {
  it('a rank that calls process.exit is named, with the place', async () => {
    const text = await refusal(2, 'exit');
    expect(text).toContain('rank 1 has left (rank 1 called process.exit(0)');
    expect(text).toMatch(/at leaveEarly \(.*rules\.ts/);
  });

  it('an exception on one rank is shown once', async () => {
    const text = await refusal(3, 'throws');
    expect(text.match(/the callback of rank 1 gave up/g)).toHaveLength(1);
  });
});

it('model.save: rank 0 writes what all get; functions run on all', async () => {
  const { saved, loaded } = (await results(2, 'save')) as Record<string, unknown>;
  expect(loaded).toEqual(saved);
  const reports = [0, 1].map((rank) => readFileSync(join(folder, `saved-${rank}`), 'utf8'));
  expect(JSON.parse(reports[0]!)).toMatchObject({ handled: 1, bytes: expect.any(Number) });
  expect(reports[1]).toBe(reports[0]);
  expect(readdirSync(join(folder, 'model')).sort()).toEqual(['model.json', 'weights.bin']);
});

it('shard() splits a loop of its own', async () => {
  const one = await results(1, 'shard');
  for (const ranks of [2, 3]) {
    expect(difference(one, await results(ranks, 'shard'))).toBeLessThan(tolerance);
  }
});

it('neither tensors nor memory grow', async () => {
  const [first, second, ...rest] = (await results(2, 'leaks')) as number[];
  const grown = rest.pop()!;
  expect(second).toBe(first);
  expect(new Set(rest)).toEqual(new Set([first]));
  // 40 rounds of 13 steps: one gradient of the large layer a step, 256 KiB, would be 130 MiB.
  expect(grown).toBeLessThan(64 * 2 ** 20);
});

describe('a DeepSpeed config', () => {
  const stage = (value: number, more: object = {}) => ({
    config: { zero_optimization: { stage: value }, ...more },
  });

  it.each([0, 1, 2])('stage %i trains the same', async (value) => {
    const one = await oneRank('adam');
    expect(difference(one, await results(2, 'adam', stage(value)))).toBeLessThan(tolerance);
    expect(difference(one, await results(3, 'adam', stage(value)))).toBeLessThan(tolerance);
  });

  it.each([0, 1, 2])("accumulation splits the script's batch (stage %i)", async (value) => {
    const one = await oneRank('adam');
    const split = stage(value, { gradient_accumulation_steps: 3 });
    expect(difference(one, await results(2, 'adam', split))).toBeLessThan(tolerance);
  });

  it('withStrategy says the same in code', async () => {
    const one = await oneRank('adam');
    expect(difference(one, await results(2, 'withStrategy'))).toBeLessThan(tolerance);
  });

  it('clips by the norm of the whole batch', async () => {
    const clipped = { config: { gradient_clipping: 0.05 } };
    const one = await results(1, 'plain', clipped);
    expect(difference(one, await results(2, 'plain', clipped))).toBeLessThan(tolerance);
    expect(difference(one, await oneRank('plain'))).toBeGreaterThan(0.01);
  });

  it('bf16: weights are those of 16 bits, close to the others', async () => {
    const bf16 = { config: { bf16: { enabled: true } } };
    const two = (await results(2, 'plain', bf16)) as { weights: number[][] };
    const bits = new Uint32Array(Float32Array.from(two.weights.flat()).buffer);
    expect(bits.every((word) => (word & 0xffff) === 0)).toBe(true);
    expect(difference(await oneRank('plain'), two, 1)).toBeLessThan(0.02);
  });

  it('a scheduler sets the rate', async () => {
    const scheduler = { type: 'WarmupLR', params: { warmup_max_lr: 0.1, warmup_num_steps: 4 } };
    const one = await results(1, 'plain', { config: { scheduler } });
    expect(difference(one, await results(2, 'plain', { config: { scheduler } }))).toBeLessThan(
      tolerance,
    );
    expect(difference(one, await oneRank('plain'))).toBeGreaterThan(0.01);
    expect(await refusal(2, 'rateOfRank0Alone', { config: { scheduler } })).toContain(
      'the script wrote the learning rate',
    );
  });

  it('repeats the compiled optimizer, or is refused', async () => {
    const optimizer = (lr: number, type = 'SGD') => ({
      config: { optimizer: { type, params: { lr } } },
    });
    expect(difference(await oneRank('plain'), await results(1, 'plain', optimizer(0.1)))).toBe(0);
    expect(await refusal(1, 'plain', optimizer(0.2))).toContain(
      'lr 0.2 in the config, 0.1 in the script',
    );
    expect(await refusal(1, 'plain', optimizer(0.1, 'AdamW'))).toContain('kind adamw');
  });

  it.each([
    [{ train_batch_size: 4 }, 'batches of 6 rows, and the config says train_batch_size 4'],
    [{ zero_optimization: { stage: 3 } }, 'needs a host with "gatheredParameters"'],
  ])('refuses %j', async (config, text) => {
    expect(await refusal(2, 'plain', { config })).toContain(text);
  });

  it('refuses what this host has no way to do, naming the key', async () => {
    const drop = { progressive_layer_drop: { enabled: true, theta: 0.5, gamma: 0.001 } };
    expect(await refusal(2, 'plain', { config: drop })).toContain('progressive_layer_drop');
    const accumulation = { gradient_accumulation_steps: 2 };
    expect(await refusal(2, 'batchNorm', { config: accumulation })).toContain(
      'gradient_accumulation_steps 2 would normalise each part of a batch by itself',
    );
  });
});

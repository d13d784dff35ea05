/** `deepspeed-js estimate`: what it says before a run is what the engines' accounts say in it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { estimate } from '../src/cli/estimate.ts';
import { footprintCategories } from '../src/strategies/zero/footprint.ts';
import { estimateMemory, recommend } from '../src/trainer/estimate.ts';
import { playRanks, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const worldSize = 2;
const sequenceLength = 16;
const samples = Array.from({ length: 8 }, (_, row) => ({
  input_ids: Array.from({ length: sequenceLength }, (_, i) => (row * 7 + i * 5) % 61),
}));

const config = (more: Record<string, unknown> = {}) => ({
  train_micro_batch_size_per_gpu: 2,
  gradient_accumulation_steps: 2,
  optimizer: { type: 'AdamW', params: { lr: 1e-3 } },
  ...more,
});
/** Bytes that two ranks' collectives keep. */
let staging = 0;
/** And what the first one opens whose memory is a rank's own: as initial 16-bit weights at stage 0. */
const unshared = 3 * 512 * 1024;
beforeAll(async () => {
  staging = (await account(0, false, {})).communication;
});

/** Limits that leave every window smaller than the model. */
const limits = {
  reduce_bucket_size: 3000,
  stage3_param_persistence_threshold: 100,
  stage3_prefetch_bucket_size: 2000,
  stage3_max_reuse_distance: 1,
};

/** Of the account, what the estimate speaks of: the gradient norm and the staging of collectives depend on no model. */
async function account(
  stage: number,
  gradientCheckpointing: boolean,
  given: object,
  offload: object = {},
  freeze?: string,
) {
  const [outcome] = await playRanks(worldSize, {
    model: tinyGpt2,
    samples,
    ...(freeze !== undefined && { freeze }),
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 1,
      gradientCheckpointing,
      deepspeed: { ...config(given as never), zero_optimization: { ...limits, stage, ...offload } },
    },
  });
  const { current } = outcome!.memory;
  const communication = (current.communication - staging) % unshared;
  return { ...current, communication, optimizer: current.optimizer - 64 };
}

describe.each([
  ['fp32', {}],
  ['bf16', { bf16: { enabled: true } }],
  ['Lion, gradients in fp16', { optimizer: { type: 'Lion' }, communication_data_type: 'fp16' }],
])('%s', (_, given) => {
  it.each([0, 1, 2, 3])('stage %i: every category, to the byte', async (stage) => {
    const { rows } = estimateMemory({
      modelConfig: tinyGpt2,
      deepspeed: { ...config(given), zero_optimization: { ...limits, stage } },
      worldSize,
      sequenceLength,
    });
    const gradientCheckpointing = stage % 2 === 1;
    const row = rows.find(
      (one) =>
        one.stage === stage &&
        one.gradientCheckpointing === gradientCheckpointing &&
        one.onDisk === 'nothing',
    )!;
    const real = await account(stage, gradientCheckpointing, given);
    const shown = Object.fromEntries(
      footprintCategories.map((category) => [category, real[category]]),
    );
    expect(row.bytes).toEqual(shown);
  });
});

it.each([
  ['fp32', {}],
  ['bf16', { bf16: { enabled: true } }],
])('%s: with frozen parameters every category, to the byte, memory and disk', async (_, given) => {
  const freeze = ['transformer.h.'];
  const nvme = { device: 'nvme', nvme_path: temporaryFolder() };
  for (const [stage, offload] of [
    [2, {}],
    [3, {}],
    [3, { zero_hpz_partition_size: 2 }],
    // Trained elements have a shard of about 1,000; what they leave keeps one unit of 2,048 of the frozen.
    [3, { offload_param: { ...nvme, max_in_cpu: 4096 } }],
  ] as const) {
    const { rows } = estimateMemory({
      modelConfig: tinyGpt2,
      deepspeed: { ...config(given), zero_optimization: { ...limits, stage, ...offload } },
      worldSize,
      sequenceLength,
      freeze,
    });
    const row = rows.find((one) => one.stage === stage && one.onDisk === 'nothing')!;
    const real = await account(stage, false, given, offload, freeze[0]);
    const shown = Object.fromEntries(
      footprintCategories.map((category) => [category, real[category]]),
    );
    expect(row.bytes, JSON.stringify(offload)).toEqual(shown);
  }
});

const freezing = (type: string) => ({
  optimizer: { type, params: { lr: 1e-3, freeze_step: 1 } },
});
describe.each([
  // A one-bit optimizer has a norm of its own.
  ['1-bit Adam', freezing('OneBitAdam'), [0], 64],
  ['1-bit LAMB', freezing('OneBitLamb'), [0], 64],
  ['0/1 Adam', { optimizer: { type: 'ZeroOneAdam', params: { lr: 1e-3 } } }, [0], 64],
  ['int8', { compression: { type: 'int8' } }, [0, 1], 0],
  ['topk', { compression: { type: 'topk' } }, [0, 1], 0],
  ['powersgd', { compression: { type: 'powersgd', rank: 2 } }, [0, 1], 0],
] as const)('%s', (_, given, stages, norm) => {
  it.each(stages)(
    'stage %i: the optimizer with what compression keeps, to the byte',
    async (stage) => {
      const deepspeed = { ...config(given), zero_optimization: { ...limits, stage } };
      const { rows } = estimateMemory({
        modelConfig: tinyGpt2,
        deepspeed,
        worldSize,
        sequenceLength,
      });
      const real = await account(stage, false, given);
      expect(rows[stage]!.bytes!.optimizer).toBe(real.optimizer - norm);
    },
  );
});

it.each(['states', 'states and parameters'] as const)(
  'with %s on disk: every category but io, to the byte',
  async (onDisk) => {
    const { rows } = estimateMemory({
      modelConfig: tinyGpt2,
      deepspeed: { ...config(), zero_optimization: limits },
      worldSize,
      sequenceLength,
    });
    const row = rows.find((one) => one.onDisk === onDisk && !one.gradientCheckpointing)!;
    const nvme = { device: 'nvme', nvme_path: temporaryFolder() };
    const real = await account(
      3,
      false,
      {},
      {
        offload_optimizer: { ...nvme, buffer_count: 10 },
        ...(onDisk !== 'states' && { offload_param: { ...nvme, max_in_cpu: 0 } }),
      },
    );
    // Norms by bucket are among the optimizer's; sub-groups, which io is for, are not those of the estimate.
    for (const category of [
      'parameters',
      'gradients',
      'master',
      'window',
      'activations',
    ] as const) {
      expect(row.bytes![category], category).toBe(real[category]);
    }
    expect(row.bytes!.optimizer).toBe(0);
    expect(row.bytes!.io).toBeGreaterThan(0);
  },
);

describe('the command', () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'config.json'), JSON.stringify(tinyGpt2));
  const file = join(folder, 'ds_config.json');
  writeFileSync(file, JSON.stringify(config({ zero_optimization: limits })));

  async function printed(...argv: string[]): Promise<string> {
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      const words = ['--model', folder, '--deepspeed', file, '--num_procs', '2', ...argv];
      expect(await estimate(words)).toBe(0);
      return write.mock.calls.map(([text]) => String(text)).join('');
    } finally {
      write.mockRestore();
    }
  }

  it('prints a table, recommends, and draws', async () => {
    const out = join(folder, 'memory.svg');
    const text = await printed('--memory', '1', '--out', out);
    expect(text).toMatch(/^16,728 parameters, float32, adamw, 2 ranks, micro batch 2 x 32 tokens/);
    for (const stage of [0, 1, 2, 3])
      expect(text).toMatch(new RegExp(`^stage ${stage} .* KB$`, 'm'));
    expect(text).toMatch(/^stage 3, all on disk, checkpointing /m);
    expect(text).toContain('fits 512 MB a rank: zero_optimization.stage 0');
    const svg = readFileSync(out, 'utf8');
    expect(svg.match(/<rect [^>]*height="26"/g)!.length).toBeGreaterThan(8 * 3);
  });

  it('gives numbers as JSON', async () => {
    const made = JSON.parse(await printed('--json', '--seq', '8', '--memory', '2'));
    expect(made).toMatchObject({ ranks: 2, share: 2 ** 30, sequenceLength: 8 });
    expect(made.rows).toHaveLength(12);
    expect(made.recommended).toMatchObject({ stage: 0, gradientCheckpointing: false });
  });

  it('says what a config cannot be combined with', async () => {
    const lamb = join(folder, 'lamb.json');
    writeFileSync(lamb, JSON.stringify({ ...config(), optimizer: { type: 'Lamb' } }));
    const text = await printed('--deepspeed', lamb);
    expect(text).toMatch(/^stage 1 +refused/m);
    expect(text).toContain('excludes Lamb unless it is 0');
  });

  it('refuses a picture of another kind before it computes', async () => {
    const out = join(folder, 'memory.png');
    await expect(printed('--out', out)).rejects.toMatchObject({ code: 'LAUNCHER_USAGE' });
    expect(existsSync(out)).toBe(false);
  });
});

it('recommends the cheapest that fits, and nothing where nothing does', () => {
  const deepspeed = { ...config(), zero_optimization: limits };
  const { rows } = estimateMemory({ modelConfig: tinyGpt2, deepspeed, worldSize, sequenceLength });
  const totals = rows.map(({ total }) => total);
  expect(recommend(rows, Math.max(...totals))).toBe(rows[0]);
  const least = Math.min(...totals);
  expect(recommend(rows, least)!.total).toBe(least);
  expect(recommend(rows, least - 1)).toBeNull();
});

it('a beginning that no parameter has is an error, not an estimate without freezing', () => {
  const request = { modelConfig: tinyGpt2, deepspeed: config(), worldSize, sequenceLength };
  expect(() => estimateMemory({ ...request, freeze: ['transformer.wte', 'transformr.h'] })).toThrow(
    /no parameter's name begins with "transformr\.h"/,
  );
});

it('what a run would refuse is not estimated at other stages', () => {
  const request = { modelConfig: tinyGpt2, worldSize, sequenceLength };
  const deepspeed = { ...config(), zero_optimization: { stage: 7 } };
  expect(() => estimateMemory({ ...request, deepspeed })).toThrow(/stage.*got 7/);
  expect(() => estimateMemory({ ...request, deepspeed: config(), sequenceLength: 1000 })).toThrow(
    /sequence length 1000: the model takes at most/,
  );
});

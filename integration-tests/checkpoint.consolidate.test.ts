/** `deepspeed-js zero_to_fp32`: a checkpoint of any stage as one file of whole fp32 weights. */
import { readdirSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { zeroToFp32 } from '../src/cli/zero-to-fp32.ts';
import { SafetensorsFile } from '../src/models/index.ts';
import type { Outcome } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const lookAt = ['transformer.wte.weight', 'transformer.wpe.weight', 'transformer.ln_f.bias'];

async function train(
  stage: number,
  worldSize: number,
  config: Record<string, unknown> = {},
): Promise<{ folder: string; outcome: Outcome }> {
  const folder = temporaryFolder();
  const [outcome] = await playRanks(worldSize, {
    model: tinyGpt2,
    samples: raggedSamples(12),
    lookAt,
    args: {
      outputDir: folder,
      maxSteps: 2,
      saveStrategy: 'steps',
      saveSteps: 1,
      deepspeed: {
        train_micro_batch_size_per_gpu: 6 / worldSize,
        ...config,
        zero_optimization: { stage },
      },
    },
  });
  return { folder, outcome: outcome! };
}

async function consolidate(...argv: string[]): Promise<string> {
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    expect(await zeroToFp32(argv)).toBe(0);
    return write.mock.calls.map(([text]) => String(text)).join('');
  } finally {
    write.mockRestore();
  }
}

function weightsOf(file: string): Record<string, Float32Array> {
  const opened = new SafetensorsFile(file);
  const names = [...opened.tensors.keys()];
  const weights = names.map((name) => {
    expect(opened.tensors.get(name)!.dtype).toBe('float32');
    return [name, new Float32Array(opened.readBytes(name).buffer)];
  });
  opened.close();
  return Object.fromEntries(weights);
}

it.each([
  [0, 1, {}],
  [2, 2, {}],
  [3, 3, {}],
  [3, 2, { bf16: { enabled: true } }],
])('stage %i, %i ranks, %j: the optimizer’s fp32 weights', async (stage, worldSize, config) => {
  const { folder, outcome } = await train(stage, worldSize, config);
  const out = join(temporaryFolder(), 'made');
  expect(await consolidate(folder, out)).toContain('global_step2, step 2');
  const weights = weightsOf(join(out, 'model.safetensors'));
  expect(Object.keys(weights).sort()).toEqual(Object.keys(outcome.parameters).sort());
  for (const name of lookAt) expect(weights[name]).toEqual(outcome.full!.trained[name]);
});

describe('a checkpoint of three ranks', () => {
  let folder: string;
  beforeAll(async () => {
    ({ folder } = await train(3, 3));
  });

  it('gives what --tag asks for, split where --max_shard_bytes says', async () => {
    const out = temporaryFolder();
    expect(
      await consolidate(folder, out, '--tag', 'global_step1', '--max_shard_bytes', '40000'),
    ).toContain('global_step1, step 1');
    const files = readdirSync(out).filter((name) => name.endsWith('.safetensors'));
    expect(files.length).toBeGreaterThan(1);
    expect(readdirSync(out)).toContain('model.safetensors.index.json');
    const parts = Object.assign({}, ...files.map((file) => weightsOf(join(out, file))));
    const whole = temporaryFolder();
    await consolidate(join(folder, 'global_step1'), whole);
    expect(parts).toEqual(weightsOf(join(whole, 'model.safetensors')));
  });

  it('names what is missing or damaged, and writes nothing', async () => {
    const out = join(temporaryFolder(), 'none');
    const refused = (argv: string[]) => zeroToFp32([...argv, out]).catch((error) => error);
    expect(await refused([temporaryFolder()])).toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' });
    truncateSync(join(folder, 'global_step1', 'rank_00001.safetensors'), 5000);
    const cut = await refused([join(folder, 'global_step1')]);
    expect(cut).toMatchObject({ code: 'CHECKPOINT_CORRUPT' });
    expect(cut.message).toContain('rank_00001.safetensors has 5000 bytes');
    rmSync(join(folder, 'global_step2', 'rank_00002.safetensors'));
    const missing = await refused([folder]);
    expect(missing.message).toContain('shard rank_00002.safetensors of');
    expect(() => readdirSync(out)).toThrow();
  });
});

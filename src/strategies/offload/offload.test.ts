/** Offloading to disk: what stays in memory, what is moved, and what is refused. */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  removeFolders,
  temporaryFolder,
  train,
  trainRanks,
} from '../../trainer/testing/train-ranks.ts';

afterAll(removeFolders);

const folder = temporaryFolder();
const nvme = { device: 'nvme', nvme_path: folder, buffer_count: 10 };
const all = {
  offload_optimizer: { ...nvme, pipeline_read: true, pipeline_write: true },
  offload_param: { ...nvme, max_in_cpu: 0 },
};
const zero = (more: object = all) => ({
  zero_optimization: {
    stage: 3,
    stage3_param_persistence_threshold: 64,
    stage3_prefetch_bucket_size: 3000,
    stage3_max_reuse_distance: 1,
    sub_group_size: 2048,
    ...more,
  },
});

it('memory holds the buffers alone of what is on disk, and the files have no names', async () => {
  const alone = zero({ ...all, reduce_bucket_size: 1 });
  const { memory, swapped } = await train({ worldSize: 2, args: { deepspeed: alone } });
  expect(memory.current).toMatchObject({ parameters: 0, gradients: 0 });
  // A place for the norm, and one for each bucket, of which every parameter is one, and their sum.
  expect(memory.current.optimizer).toBe(64 + 16 * (28 + 1));
  // Two states, parameters and gradients in two buffers of 2048 elements each, and two sums of buckets.
  expect(memory.current.io).toBe((4 * 2 + 2) * 2048 * 4);
  expect(swapped.stats.bytesRead).toBeGreaterThan(swapped.stats.bytesWritten);
  expect(readdirSync(folder)).toEqual([]);
});

it('an fp16 step that overflows writes nothing and changes nothing', async () => {
  const fp16 = { fp16: { enabled: true, initial_scale_power: 20, hysteresis: 1 } };
  const run = (config: object) =>
    train({ worldSize: 2, args: { maxSteps: 6, deepspeed: { ...fp16, ...config } } });
  const [plain, offloaded] = [await run(zero({})), await run(zero())];
  const { skippedSteps } = plain.state;
  expect(skippedSteps).toBeGreaterThan(0);
  expect(skippedSteps).toBeLessThan(6);
  expect(offloaded.state.skippedSteps).toBe(skippedSteps);
  expect(offloaded.parameters).toEqual(plain.parameters);
});

describe('refused on every rank', () => {
  const errors = async (more: object) => {
    const ranks = await trainRanks({ worldSize: 2, args: { deepspeed: zero(more) } });
    return ranks.map(({ error }) => error);
  };

  it('a folder that is not there, or not a folder', async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    for (const [name, nvme_path, rest, problem] of [
      ['offload_optimizer', join(folder, 'none'), {}, 'there is no folder'],
      ['offload_param', file, { max_in_cpu: 0 }, 'is not a folder'],
    ] as const) {
      const [first, second] = await errors({ [name]: { ...nvme, nvme_path, ...rest } });
      const message = expect.stringMatching(`${name}.nvme_path: .*${problem}`);
      expect(first).toMatchObject({ code: 'OFFLOAD_PATH', message });
      expect(second).toMatchObject({ code: 'PEER_FAILED', message });
    }
  });

  it('buffers that a sub-group, or a pipeline, does not fit', async () => {
    for (const [rest, problem] of [
      [{ buffer_count: 2 }, /buffer_count is 2: a sub-group has 3 tensors on disk$/],
      [{ buffer_count: 5, pipeline_write: true }, /buffer_count is 5: .* a pipeline needs two/],
    ] as const) {
      const [error] = await errors({ offload_optimizer: { ...nvme, ...rest } });
      expect(error).toMatchObject({ code: 'CONFIG_INVALID' });
      expect(error!.message).toMatch(problem);
    }
  });
});

/** Parameters that training does not change: the same on every rank, and part of checkpoints. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { FrozenResult, FrozenTask } from './testing/frozen.fixture.ts';
import { attemptRanks, runRanks } from './testing/run-ranks.ts';

vi.setConfig({ testTimeout: 60_000 });

let outputDir: string;
beforeEach(() => {
  outputDir = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
});
afterEach(() => rmSync(outputDir, { recursive: true, force: true }));

const layers = 'transformer.h.';
const fixture = new URL('./testing/frozen.fixture.ts', import.meta.url);

const frozenTask = (task: Partial<FrozenTask>): FrozenTask => ({
  outputDir,
  seed: 1,
  freeze: layers,
  steps: 2,
  ...task,
});

const play = (worldSize: number, task: Partial<FrozenTask> = {}) =>
  runRanks<FrozenTask, FrozenResult>(fixture, worldSize, frozenTask(task));

const frozenOf = (values: Record<string, Float32Array>) =>
  Object.fromEntries(Object.entries(values).filter(([name]) => name.startsWith(layers)));

/** The manifest of the checkpoint after two steps, before and after `change`. */
function editManifest(change: (manifest: Record<string, unknown>) => void): void {
  const path = join(outputDir, 'global_step2', 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8'));
  change(manifest);
  delete manifest.crc32c;
  writeFileSync(path, JSON.stringify(manifest));
}

it("rank 0's frozen values are everybody's, and stay as they were", async () => {
  const [first, second] = await play(2);
  // Otherwise there were nothing to make equal.
  expect(frozenOf(second!.initial)).not.toEqual(frozenOf(first!.initial));
  expect(second!.parameters).toEqual(first!.parameters);
  expect(frozenOf(first!.parameters)).toEqual(frozenOf(first!.initial));
  expect(Object.keys(frozenOf(first!.parameters)).length).toBeGreaterThan(10);
});

it('a checkpoint brings them along, at another number of ranks, too', async () => {
  const [whole] = await play(2, { steps: 4 });
  rmSync(outputDir, { recursive: true });
  const [saved] = await play(2);
  const resumed = await play(2, { seed: 100, resume: true, steps: 4 });
  for (const { parameters } of resumed) expect(parameters).toEqual(whole!.parameters);
  rmSync(join(outputDir, 'global_step4'), { recursive: true });
  writeFileSync(join(outputDir, 'latest'), 'global_step2\n');
  for (const worldSize of [1, 3]) {
    for (const { parameters } of await play(worldSize, { seed: 50, resume: true })) {
      expect(parameters).toEqual(saved!.parameters);
    }
  }
});

describe('stage 3 shards them, too', () => {
  const elements = (values: Record<string, Float32Array>) =>
    Object.values(values).reduce((sum, { length }) => sum + length, 0);

  it('a rank keeps its share; to the bits of stage 2, whose checkpoint goes on, and back', async () => {
    const [whole] = await play(2, { steps: 6 });
    rmSync(outputDir, { recursive: true });
    await play(2);
    const sharded = await play(2, { resume: true, steps: 4, stage: 3 });
    const [resumed] = await play(2, { seed: 100, resume: true, steps: 6 });
    expect(resumed!.parameters).toEqual(whole!.parameters);
    // Slots begin at multiples of 16 elements.
    const all = elements(whole!.parameters);
    const padding = 16 * (Object.keys(whole!.parameters).length + 2);
    for (const { memory } of sharded) {
      expect(memory.current.parameters).toBeLessThanOrEqual((4 * (all + padding)) / 2);
    }
  });

  it('so that each initial value is read by one rank alone', async () => {
    const ranks = await play(2, { stage: 3 });
    const all = elements(ranks[0]!.parameters);
    expect(ranks.reduce((sum, { read }) => sum + read, 0)).toBe(all);
    for (const { read } of ranks) expect(read).toBeLessThan(0.6 * all);
  });

  it('and sends them to disk behind what is trained', async () => {
    const [whole] = await play(2, { steps: 4 });
    rmSync(outputDir, { recursive: true });
    await play(2);
    const offload_param = { device: 'nvme', nvme_path: outputDir, max_in_cpu: 0 };
    for (const worldSize of [2, 1]) {
      const task = { resume: true, steps: 4, stage: 3, zero: { offload_param } };
      const ranks = await play(worldSize, task);
      for (const { parameters, memory } of ranks) {
        expect(memory.current.parameters).toBe(0);
        expect(frozenOf(parameters)).toEqual(frozenOf(whole!.parameters));
        if (worldSize === 2) expect(parameters).toEqual(whole!.parameters);
      }
      rmSync(join(outputDir, 'global_step4'), { recursive: true });
      writeFileSync(join(outputDir, 'latest'), 'global_step2\n');
    }
  });

  it('backward gathers them from the second shard of ZeRO++', async () => {
    const [plain] = await play(2, { stage: 3 });
    const [grouped] = await play(2, { stage: 3, zero: { zero_hpz_partition_size: 2 } });
    expect(grouped!.parameters).toEqual(plain!.parameters);
    const { parameters } = plain!.memory.current;
    expect(grouped!.memory.current.parameters).toBe(2 * parameters);
  });
});

it('excludeFrozenParameters leaves them out: smaller files, and a run that resumes has its own', async () => {
  const bytes = () => statSync(join(outputDir, 'global_step2/rank_00000.safetensors')).size;
  await play(1);
  const whole = bytes();
  await play(1, { exclude: true });
  expect(bytes()).toBeLessThan(whole);
  const [resumed] = await play(1, { seed: 100, resume: true });
  expect(frozenOf(resumed!.parameters)).toEqual(frozenOf(resumed!.initial));
});

it('a checkpoint of a version that did not store them loads', async () => {
  const [saved] = await play(1);
  editManifest((manifest) => {
    manifest.version = 1;
    delete manifest.frozen;
    for (const shard of manifest.shards as Record<string, unknown>[]) delete shard.frozen;
  });
  const [resumed] = await play(1, { seed: 100, resume: true });
  expect(frozenOf(resumed!.parameters)).toEqual(frozenOf(resumed!.initial));
  const trained = 'transformer.wte.weight';
  expect(resumed!.parameters[trained]).toEqual(saved!.parameters[trained]);
});

it('names what is frozen here and was not there', async () => {
  await play(1);
  const task = frozenTask({ resume: true, freeze: 'transformer.h.0' });
  const [resumed] = await attemptRanks<FrozenTask, FrozenResult>(fixture, 1, task);
  expect(resumed!.error).toMatchObject({
    code: 'CHECKPOINT_OTHER_MODEL',
    message: expect.stringMatching(
      /transformer\.h\.1\.ln_1\.weight \[8\]: not in the model among those not trained/,
    ),
  });
});

/** Parameters that training does not change: the same on every rank, and part of checkpoints. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
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

it('stage 3 gathers what is trained, to the same bits, and goes on from stage 2', async () => {
  const [whole] = await play(2, { seed: 1, steps: 4 });
  rmSync(outputDir, { recursive: true });
  await play(2);
  for (const { parameters } of await play(2, { resume: true, steps: 4, stage: 3 })) {
    expect(parameters).toEqual(whole!.parameters);
  }
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

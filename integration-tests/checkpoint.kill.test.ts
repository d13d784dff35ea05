import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const script = fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url));

function scenario(outputDir: string, more: Partial<Scenario['args']> = {}): Scenario {
  return {
    model: tinyGpt2,
    samples: raggedSamples(8),
    args: {
      outputDir,
      maxSteps: 2,
      perDeviceTrainBatchSize: 4,
      lrSchedulerType: 'constant',
      saveStrategy: 'steps',
      saveSteps: 1,
      ...more,
    },
  };
}

/** In a process of its own, which dies at the n-th numbered point of writing that it passes. */
function playAndDie(folder: string, play: Scenario, faultPoint: number): NodeJS.Signals | null {
  const file = join(folder, 'scenario.json');
  writeFileSync(file, JSON.stringify(play));
  const { status, signal, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', script, file],
    {
      env: { ...process.env, DEEPSPEED_JS_FAULT_POINT: String(faultPoint) },
      encoding: 'utf8',
    },
  );
  if (signal === null && status !== 0) throw new Error(stderr);
  return signal;
}

it('a kill at any point of a checkpoint leaves one to go on from, as if nothing had been', async () => {
  const first = temporaryFolder();
  await play(scenario(first, { maxSteps: 1 }));
  const { parameters: expected } = await play(scenario(temporaryFolder()));
  const resumedFrom = new Set<string>();
  for (let point = 1; ; point += 1) {
    const outputDir = temporaryFolder();
    cpSync(first, outputDir, { recursive: true });
    const dying: Scenario = { ...scenario(outputDir), resumeFrom: true };
    const signal = playAndDie(temporaryFolder(), dying, point);
    resumedFrom.add(readFileSync(join(outputDir, 'latest'), 'utf8').trim());
    const { parameters } = await play({ ...scenario(outputDir), resumeFrom: true });
    expect(parameters, `killed at point ${point}`).toEqual(expected);
    if (signal === null) {
      // Every point has been passed: three files, each written, synchronised and renamed.
      expect(point).toBeGreaterThan(9);
      break;
    }
    expect(signal).toBe('SIGKILL');
  }
  expect(resumedFrom).toEqual(new Set(['global_step1', 'global_step2']));
});

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

/** Steps of the run that is killed, and the checkpoints after them; in the background the first one is beside a step. */
const runs = [
  { what: 'a checkpoint', more: { maxSteps: 2 }, files: 3 },
  { what: 'a checkpoint in the background', more: { maxSteps: 3, asyncSave: true }, files: 6 },
];

it.each(runs)(
  'a kill at any point of $what leaves one to go on from, as if nothing had been',
  async ({ more, files }) => {
    const first = temporaryFolder();
    await play(scenario(first, { maxSteps: 1 }));
    const { parameters: expected } = await play(scenario(temporaryFolder(), more));
    const resumedFrom = new Set<string>();
    for (let point = 1; ; point += 1) {
      const outputDir = temporaryFolder();
      cpSync(first, outputDir, { recursive: true });
      const dying: Scenario = { ...scenario(outputDir, more), resumeFrom: true };
      const signal = playAndDie(temporaryFolder(), dying, point);
      resumedFrom.add(readFileSync(join(outputDir, 'latest'), 'utf8').trim());
      const { parameters } = await play(dying);
      expect(parameters, `killed at point ${point}`).toEqual(expected);
      if (signal === null) {
        // Every point has been passed: files that are each written, synchronised and renamed.
        expect(point).toBeGreaterThan(3 * files);
        break;
      }
      expect(signal).toBe('SIGKILL');
    }
    const steps = Array.from({ length: more.maxSteps }, (_, step) => `global_step${step + 1}`);
    expect(resumedFrom).toEqual(new Set(steps));
  },
);

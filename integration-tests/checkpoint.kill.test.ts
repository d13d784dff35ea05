import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { playAndDie } from './play-and-die.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

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
      const signal = playAndDie(dying, point);
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

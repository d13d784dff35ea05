import { createHash } from 'node:crypto';
import { cpSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { atEveryPoint } from './held-points.ts';
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

/**
 * All that a resumed run can see: names, and what is in files that have theirs. Most points of writing leave the same,
 * but for files that are half-written.
 */
function visible(folder: string): string {
  const hash = createHash('sha256');
  const names = (readdirSync(folder, { recursive: true }) as string[]).map((name) => ({
    name,
    shown: name.replace(/\.(writing|tmp)-[\w-]+/g, '.$1'),
  }));
  for (const { name, shown } of names.sort((a, b) => (a.shown < b.shown ? -1 : 1))) {
    hash.update(`${shown}\n`);
    const path = join(folder, name);
    if (shown === name && statSync(path).isFile()) hash.update(readFileSync(path));
  }
  return hash.digest('hex');
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
    const begun = () => {
      const outputDir = temporaryFolder();
      cpSync(first, outputDir, { recursive: true });
      return outputDir;
    };
    const resumed = (outputDir: string) => ({ ...scenario(outputDir, more), resumeFrom: true });

    const outputDir = begun();
    const left: string[] = [];
    const points = await atEveryPoint(
      () => play(resumed(outputDir)),
      () => {
        const copy = temporaryFolder();
        cpSync(outputDir, copy, { recursive: true });
        left.push(copy);
      },
    );
    // Files that are each written, synchronised and renamed.
    expect(points).toBeGreaterThan(3 * files);
    expect(left.length).toBe(points);

    const killed = [1, Math.ceil(points / 2), points].map((point) => {
      const folder = begun();
      expect(playAndDie(resumed(folder), point), `point ${point}`).toBe('SIGKILL');
      return folder;
    });
    expect(playAndDie(resumed(begun()), points + 1)).toBe(null);

    const resumedFrom = new Set<string>();
    const different = new Map([...left, outputDir, ...killed].map((at) => [visible(at), at]));
    expect(different.size).toBeGreaterThan(files);
    for (const [index, folder] of [...different.values()].entries()) {
      resumedFrom.add(readFileSync(join(folder, 'latest'), 'utf8').trim());
      const { parameters } = await play(resumed(folder));
      expect(parameters, `what was left, ${index + 1}`).toEqual(expected);
    }
    const steps = Array.from({ length: more.maxSteps }, (_, step) => `global_step${step + 1}`);
    expect(resumedFrom).toEqual(new Set(steps));
  },
);

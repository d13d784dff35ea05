/** What ends a run that offloads to disk, and what is there afterwards. */
import { spawnSync } from 'node:child_process';
import { cpSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../src/native/index.ts';
import { AutoModelForCausalLM, Trainer } from '../src/transformers.ts';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { playAndDie } from './play-and-die.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const samples = raggedSamples(8);

function argsOf(outputDir: string, disk: string, maxSteps: number): Scenario['args'] {
  return {
    outputDir,
    maxSteps,
    perDeviceTrainBatchSize: 4,
    lrSchedulerType: 'constant',
    saveStrategy: 'steps',
    saveSteps: 1,
    deepspeed: {
      zero_optimization: {
        stage: 3,
        sub_group_size: 6000,
        offload_optimizer: {
          device: 'nvme',
          nvme_path: disk,
          buffer_count: 6,
          pipeline_read: true,
          pipeline_write: true,
        },
      },
    },
  };
}

const scenario = (outputDir: string, disk: string, maxSteps = 2): Scenario => ({
  model: tinyGpt2,
  samples,
  args: argsOf(outputDir, disk, maxSteps),
});

it('a kill while states are written leaves the checkpoint, and nothing on the disk', async () => {
  const first = temporaryFolder();
  await play(scenario(first, temporaryFolder(), 1));
  const { parameters: expected } = await play(scenario(temporaryFolder(), temporaryFolder()));

  // The points of a resumed run: the states that are read, then one step's, then the checkpoint's.
  const counted = temporaryFolder();
  cpSync(first, counted, { recursive: true });
  const addon = loadAddon();
  addon.setFaultPoint(0);
  await play({ ...scenario(counted, temporaryFolder()), resumeFrom: true });
  const points = addon.setFaultPoint(0);
  const ofCheckpoint = 30;
  // Three sub-groups of two states.
  const ofStep = 6;
  expect(points).toBeGreaterThan(ofStep);

  // Every point at which the step writes states out, and one before and one after them.
  const swaps = Array.from({ length: ofStep }, (_, index) => points - ofCheckpoint - index);
  for (const point of [1, ...swaps, points - 10]) {
    const [outputDir, disk] = [temporaryFolder(), temporaryFolder()];
    cpSync(first, outputDir, { recursive: true });
    const dying = { ...scenario(outputDir, disk), resumeFrom: true };
    expect(playAndDie(dying, point)).toBe('SIGKILL');
    expect(readdirSync(disk)).toEqual([]);
    const { parameters } = await play({ ...scenario(outputDir, disk), resumeFrom: true });
    expect(parameters, `killed at point ${point} of ${points}`).toEqual(expected);
  }
});

/** This process's limit on the length of files, in bytes; the hard one stays. */
function limitFiles(bytes: string): boolean {
  const command = ['--pid', String(process.pid), `--fsize=${bytes}:`];
  return spawnSync('prlimit', command).status === 0;
}

describe.skipIf(!limitFiles('unlimited'))('a disk that fails in a step', () => {
  it('ends the run with file, place and reason; the last checkpoint loads', async () => {
    const [outputDir, disk] = [temporaryFolder(), temporaryFolder()];
    const { parameters: expected } = await play(scenario(temporaryFolder(), disk));
    const trainer = new Trainer({
      model: AutoModelForCausalLM.fromConfig(tinyGpt2),
      trainDataset: samples,
      args: { ...argsOf(outputDir, disk, 2), reportTo: [], disableTqdm: true },
      callbacks: [{ onSave: () => void limitFiles('4096') }],
      runtime: { threads: 1 },
    });
    const failure = await trainer.train().catch((error) => `${error.code} ${error.message}`);
    limitFiles('unlimited');
    expect(failure).toMatch(
      /^IO_ERROR cannot write .*deepspeed-js-\w+-rank0\.swap \(\d+ bytes at \d+\): File too large/,
    );
    expect(readdirSync(disk)).toEqual([]);
    const { parameters } = await play({ ...scenario(outputDir, disk), resumeFrom: true });
    expect(parameters).toEqual(expected);
  });
});

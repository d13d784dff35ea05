/** What ends a run that offloads to disk, and what is there afterwards. */
import { spawnSync } from 'node:child_process';
import { cpSync, ftruncateSync, readdirSync, readlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../src/native/index.ts';
import { AutoModelForCausalLM, Trainer, type TrainerCallback } from '../src/transformers.ts';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { atEveryPoint } from './held-points.ts';
import { playAndDie } from './play-and-die.ts';
import {
  failRanks,
  playRanks,
  raggedSamples,
  temporaryFolder,
  tinyGpt2,
} from './training.ranks.ts';

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

/** Trains here, and tells where it stands. */
async function trainHere(
  outputDir: string,
  disk: string,
  callbacks: TrainerCallback,
  resumeFromCheckpoint = false,
): Promise<unknown> {
  const trainer = new Trainer({
    model: AutoModelForCausalLM.fromConfig(tinyGpt2),
    trainDataset: samples,
    args: { ...argsOf(outputDir, disk, 2), reportTo: [], disableTqdm: true },
    callbacks: [callbacks],
    runtime: { threads: 1 },
  });
  try {
    await trainer.train({ resumeFromCheckpoint });
    return null;
  } catch (error) {
    return error;
  } finally {
    await trainer.close();
  }
}

/** The numbered points of writing that a resumed run of one step passes. */
async function pointsOf(first: string): Promise<{ load: number; step: number; save: number }> {
  const outputDir = temporaryFolder();
  cpSync(first, outputDir, { recursive: true });
  const addon = loadAddon();
  const points = { load: 0, step: 0, save: 0 };
  const since = (part: keyof typeof points) => () => {
    points[part] += addon.setFaultPoint(0);
  };
  addon.setFaultPoint(0);
  const failure = await trainHere(
    outputDir,
    temporaryFolder(),
    { onStepBegin: since('load'), onStepEnd: since('step'), onTrainEnd: since('save') },
    true,
  );
  expect(failure).toBe(null);
  return points;
}

it('a kill while states are written leaves the checkpoint, and nothing on the disk', async () => {
  const first = temporaryFolder();
  await play(scenario(first, temporaryFolder(), 1));
  const { parameters: expected } = await play(scenario(temporaryFolder(), temporaryFolder()));

  const { load, step, save } = await pointsOf(first);
  // Three sub-groups of two states and a gradient.
  expect(step).toBeGreaterThanOrEqual(7);
  expect(load).toBeGreaterThan(0);
  expect(save).toBeGreaterThan(0);

  const begun = () => {
    const [outputDir, disk] = [temporaryFolder(), temporaryFolder()];
    cpSync(first, outputDir, { recursive: true });
    return { outputDir, disk };
  };
  const filesOf = (folder: string) => readdirSync(folder, { recursive: true }).sort();

  // At every point at which the step writes, the disk looks empty and the checkpoint is what it was.
  const { outputDir, disk } = begun();
  let end = () => {};
  const stepped = new Promise<void>((resolve) => {
    end = resolve;
  });
  let held: Promise<number> | undefined;
  const look = () => {
    expect(readdirSync(disk)).toEqual([]);
    expect(filesOf(outputDir)).toEqual(filesOf(first));
  };
  const watch = {
    onStepBegin: () => {
      held = atEveryPoint(() => stepped, look);
    },
    onStepEnd: end,
  };
  expect(await trainHere(outputDir, disk, watch, true)).toBe(null);
  expect(await held).toBeGreaterThanOrEqual(step);

  // The first and the last of what comes before the step, of the step, and of what comes after.
  const middle = load + Math.ceil(step / 2);
  for (const point of [1, load, load + 1, middle, load + step, load + step + save]) {
    const killed = begun();
    const dying = { ...scenario(killed.outputDir, killed.disk), resumeFrom: true };
    expect(playAndDie(dying, point), `point ${point}`).toBe('SIGKILL');
    expect(readdirSync(killed.disk)).toEqual([]);
    const { parameters } = await play(dying);
    expect(parameters, `killed at point ${point}`).toEqual(expected);
  }
});

/** This process's limit on the length of files, in bytes; the hard one stays. */
function limitFiles(bytes: string): boolean {
  const command = ['--pid', String(process.pid), `--fsize=${bytes}:`];
  return spawnSync('prlimit', command).status === 0;
}

/** The swap file that this process has open. */
function openSwapFile(): number {
  const found = readdirSync('/proc/self/fd').find((fd) => {
    try {
      return /rank0\.swap \(deleted\)$/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // the listing's own
    }
  });
  return Number(found);
}

interface Failure {
  what: string;
  /** After the first checkpoint. */
  fails(): void;
  heals(): void;
  says: RegExp;
  fix: RegExp;
}

const failures: Failure[] = [
  {
    what: 'refuses a write',
    fails: () => void limitFiles('4096'),
    heals: () => void limitFiles('unlimited'),
    says: /^cannot write .*deepspeed-js-\w+-rank0\.swap \(\d+ bytes at \d+\): File too large \(IO_ERROR\)$/,
    fix: /^The disk or its file system failed: .* resume/,
  },
  {
    what: 'loses the end of the file',
    fails: () => ftruncateSync(openSwapFile(), 0),
    heals: () => {},
    says: /^cannot read .*rank0\.swap \(\d+ bytes at \d+\): the file ends there \(IO_SHORT_FILE\)$/,
    fix: /^Something cut the file/,
  },
];

describe.skipIf(process.platform !== 'linux' || !limitFiles('unlimited'))('a disk', () => {
  it.each(failures)(
    'that $what in a step ends the run with file, place, reason and what to do',
    async (failure) => {
      const [outputDir, disk] = [temporaryFolder(), temporaryFolder()];
      const { parameters: expected } = await play(scenario(temporaryFolder(), disk));
      const error = await trainHere(outputDir, disk, { onSave: failure.fails });
      failure.heals();
      expect(error).toMatchObject({
        code: 'OFFLOAD_IO',
        message: expect.stringMatching(failure.says),
        fix: expect.stringMatching(failure.fix),
      });
      expect(readdirSync(disk)).toEqual([]);
      const { parameters } = await play({ ...scenario(outputDir, disk), resumeFrom: true });
      expect(parameters).toEqual(expected);
    },
  );
});

describe('a disk of two MiB', () => {
  const disk = temporaryFolder();
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]).status === 0;

  it.skipIf(!mounted)(
    'that is too small is told before the first step (needs the right to mount)',
    async () => {
      try {
        const large = { ...tinyGpt2, n_embd: 192 };
        const [error, other] = await failRanks(2, {
          ...scenario(temporaryFolder(), disk),
          model: large,
        });
        expect(error).toMatchObject({
          code: 'OFFLOAD_NO_SPACE',
          message: expect.stringMatching(/nvme_path: cannot reserve .* for .*: .* are free/),
        });
        expect(other!.message).toMatch(/cannot reserve/);
        expect(readdirSync(disk)).toEqual([]);
        // A smaller model fits, whatever direct I/O the file system has.
        await playRanks(2, scenario(temporaryFolder(), disk, 1));
      } finally {
        spawnSync('umount', [disk]);
      }
    },
  );
});

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import type { Played } from './fixtures/training/play.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { runLauncher } from './launcher.run.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

/** One script and one set of arguments for every way to start it. */
const script = fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url));
const folder = temporaryFolder();
const scenario = join(folder, 'scenario.json');
const steps = 6;
const globalBatch = 12;

/** Arguments that mean the same global batch at any number of ranks. */
function writeScenario(
  file: string,
  worldSize: number,
  args: Partial<Scenario['args']> = {},
): void {
  const content: Scenario = {
    model: tinyGpt2,
    samples: raggedSamples(31),
    args: {
      outputDir: join(folder, 'out'),
      maxSteps: steps,
      learningRate: 2e-3,
      weightDecay: 0.1,
      maxGradNorm: 0.5,
      lrSchedulerType: 'cosine',
      warmupSteps: 2,
      perDeviceTrainBatchSize: globalBatch / worldSize / 2,
      gradientAccumulationSteps: 2,
      ...args,
    },
  };
  writeFileSync(file, JSON.stringify(content));
}

/** The same training as a ds_config, whatever the Trainer decides left to it. */
function writeConfig(stage: number): string {
  const file = join(folder, `stage-${stage}.json`);
  const config = {
    train_micro_batch_size_per_gpu: 'auto',
    gradient_accumulation_steps: 'auto',
    gradient_clipping: 'auto',
    optimizer: {
      type: 'AdamW',
      params: { lr: 'auto', betas: 'auto', eps: 'auto', weight_decay: 'auto' },
    },
    zero_optimization: { stage },
  };
  writeFileSync(file, JSON.stringify(config));
  return file;
}

function results(name: string, worldSize: number): Played[] {
  return Array.from({ length: worldSize }, (_, rank) =>
    JSON.parse(readFileSync(join(folder, `${name}.${rank}.json`), 'utf8')),
  );
}

async function start(name: string, flags: string[]): Promise<Played[]> {
  const worldSize = Number(flags[1]);
  writeScenario(scenario, worldSize);
  const { status, stderr } = await runLauncher([...flags, script, scenario, join(folder, name)]);
  expect(status, stderr).toBe(0);
  return results(name, worldSize);
}

let alone: Played;
beforeAll(() => {
  writeScenario(scenario, 1);
  const words = ['--import', 'tsx', script, scenario, join(folder, 'alone')];
  const { status, stderr } = spawnSync(process.execPath, words, { encoding: 'utf8' });
  expect(status, stderr).toBe(0);
  alone = results('alone', 1)[0]!;
  expect(alone.losses).toHaveLength(steps);
});

it.each([
  ['one-rank', ['--num_procs', '1']],
  ['ddp', ['--num_procs', '2']],
  ['stage-0', ['--num_procs', '2', '--deepspeed', writeConfig(0)]],
  ['stage-1', ['--num_procs', '2', '--deepspeed', writeConfig(1)]],
  ['stage-2', ['--num_procs', '2', '--deepspeed', writeConfig(2)]],
  ['stage-2-of-three', ['--num_procs', '3', '--deepspeed', writeConfig(2)]],
])('%s trains as the script does on its own, without the launcher', async (name, flags) => {
  const ranks = await start(name, flags);
  for (const rank of ranks) {
    expect(rank).toEqual(ranks[0]);
    for (const [step, loss] of alone.losses.entries()) {
      expect(Math.abs(rank.losses[step]! / loss - 1), `step ${step}`).toBeLessThan(1e-6);
    }
  }
});

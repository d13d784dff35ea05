/** Training on another execution provider than the processor's, as a user asks for it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Played } from './fixtures/training/play.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { runLauncher } from './launcher.run.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';
import { noWebgpu } from './vulkan.ts';

const script = fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url));
const folder = temporaryFolder();

function writeScenario(worldSize: number, executionProvider: 'cpu' | 'webgpu'): string {
  const content: Scenario = {
    model: { ...tinyGpt2, attn_pdrop: 0.1 },
    samples: raggedSamples(16),
    args: {
      outputDir: join(folder, 'out'),
      executionProvider,
      maxSteps: 3,
      learningRate: 2e-3,
      perDeviceTrainBatchSize: 4 / worldSize,
      gradientAccumulationSteps: 2,
      // One shape, so that one set of programs is compiled.
      padToMultipleOf: 32,
      deepspeed: {
        train_micro_batch_size_per_gpu: 'auto',
        gradient_accumulation_steps: 'auto',
        zero_optimization: { stage: 2 },
      },
    },
  };
  const file = join(folder, `${executionProvider}-${worldSize}.json`);
  writeFileSync(file, JSON.stringify(content));
  return file;
}

/** What each rank played, and what the launcher said. */
async function play(worldSize: number, provider: 'cpu' | 'webgpu') {
  const result = join(folder, `${provider}-${worldSize}-result`);
  const file = writeScenario(worldSize, provider);
  const words = ['--num_procs', `${worldSize}`, script, file, result];
  const { status, stdout, stderr } = await runLauncher(words);
  expect(status, stderr).toBe(0);
  const ranks = Array.from(
    { length: worldSize },
    (_, rank) => JSON.parse(readFileSync(`${result}.${rank}.json`, 'utf8')) as Played,
  );
  return { ranks, said: stdout + stderr };
}

describe.skipIf(noWebgpu !== null)('on WebGPU', { timeout: 120_000 }, () => {
  it('ranks train as one process on the processor does, and the ways round our operators are told once', async () => {
    const { ranks: expected, said: nothing } = await play(1, 'cpu');
    expect(nothing).not.toContain('execution provider');
    const { ranks, said } = await play(2, 'webgpu');
    expect(ranks[1]).toEqual(ranks[0]);
    expect(ranks[0]!.losses).toHaveLength(3);
    for (const [step, loss] of expected[0]!.losses.entries())
      expect(Math.abs(ranks[0]!.losses[step]! / loss - 1), `step ${step}`).toBeLessThan(1e-5);
    expect(said.match(/execution provider webgpu/g)).toHaveLength(1);
    expect(said).toMatch(
      /webgpu: it has no deepspeed operators; these run as plain ONNX: Attention, .*MatMulAccumulate/,
    );
  });
});

it.skipIf(process.platform !== 'linux')(
  'a machine without an adapter says so and what to do',
  async () => {
    const words = ['--num_procs', '1', script, writeScenario(1, 'webgpu'), join(folder, 'none')];
    const { status, stderr } = await runLauncher(words, {
      env: { VK_ICD_FILENAMES: join(folder, 'none.json'), VK_DRIVER_FILES: '' },
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/execution provider webgpu cannot be used: Failed to get a WebGPU adap/);
    expect(stderr).toMatch(/fix: For webgpu: install the driver of the GPU/);
    expect(stderr).toContain('(EXECUTION_PROVIDER)');
  },
);

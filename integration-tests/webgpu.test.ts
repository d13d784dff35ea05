/** Training on another execution provider than the processor's, as a user asks for it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Played } from './fixtures/training/play.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { runLauncher } from './launcher.run.ts';
import { runCommand } from './run-command.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';
import { noWebgpu } from './vulkan.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const script = fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url));
const folder = temporaryFolder();

interface Case {
  model: Record<string, unknown>;
  deepspeed: Record<string, unknown>;
  args?: Partial<Scenario['args']>;
}

function writeScenario(
  name: string,
  worldSize: number,
  executionProvider: 'cpu' | 'webgpu',
  { model, deepspeed, args }: Case,
): string {
  const content: Scenario = {
    model,
    samples: raggedSamples(16),
    args: {
      outputDir: join(folder, 'out'),
      executionProvider,
      maxSteps: 3,
      learningRate: 0.1,
      perDeviceTrainBatchSize: 4 / worldSize,
      gradientAccumulationSteps: 2,
      // One shape, so that one set of programs is compiled.
      padToMultipleOf: 32,
      deepspeed: {
        train_micro_batch_size_per_gpu: 'auto',
        gradient_accumulation_steps: 'auto',
        // Not Adam: it divides a gradient near zero by its own size, and rounding with it.
        optimizer: { type: 'SGD', params: { lr: 'auto' } },
        ...deepspeed,
      },
      ...args,
    },
  };
  const file = join(folder, `${name}-${executionProvider}.json`);
  writeFileSync(file, JSON.stringify(content));
  return file;
}

/** What each rank played, and what the launcher said. */
async function play(
  name: string,
  worldSize: number,
  provider: 'cpu' | 'webgpu',
  scenario: Case,
): Promise<{ ranks: Played[]; said: string }> {
  const result = join(folder, `${name}-${provider}-result`);
  const file = writeScenario(name, worldSize, provider, scenario);
  const words = ['--num_procs', `${worldSize}`, script, file, result];
  const { status, stdout, stderr } = await runLauncher(words);
  expect(status, stderr).toBe(0);
  const ranks = Array.from(
    { length: worldSize },
    (_, rank) => JSON.parse(readFileSync(`${result}.${rank}.json`, 'utf8')) as Played,
  );
  return { ranks, said: stdout + stderr };
}

/** Dropout of embeddings, residuals and attention. */
const gpt2 = { ...tinyGpt2, attn_pdrop: 0.1 };
const llama = {
  model_type: 'llama',
  vocab_size: 61,
  max_position_embeddings: 32,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
};

describe.skipIf(noWebgpu !== null)('on WebGPU', { timeout: 120_000 }, () => {
  it.each<[string, number, Case, number]>([
    [
      'stage 2, two ranks',
      2,
      { model: gpt2, deepspeed: { zero_optimization: { stage: 2 } } },
      1e-5,
    ],
    [
      // Rounded to 11 bits after each step; a device may not know the type.
      'fp16, stage 3, layers computed again',
      1,
      {
        model: llama,
        deepspeed: {
          fp16: { enabled: true, initial_scale_power: 8 },
          zero_optimization: { stage: 3 },
        },
        args: { gradientCheckpointing: true },
      },
      2e-3,
    ],
  ])('%s: as one process on the processor', async (name, worldSize, scenario, tolerance) => {
    const { ranks: expected, said: nothing } = await play(name, 1, 'cpu', scenario);
    expect(nothing).not.toContain('execution provider');
    const { ranks, said } = await play(name, worldSize, 'webgpu', scenario);
    for (const rank of ranks) expect(rank).toEqual(ranks[0]);
    expect(ranks[0]!.losses).toHaveLength(3);
    for (const what of ['losses', 'norms'] as const)
      for (const [index, value] of expected[0]![what].entries())
        expect(Math.abs(ranks[0]![what][index]! - value), `${what} ${index}`).toBeLessThan(
          tolerance * Math.abs(value) + 1e-7,
        );
    // Of all ranks one says what runs as plain ONNX, and once.
    expect(said.match(/execution provider webgpu/g)).toHaveLength(1);
    expect(said).toMatch(
      /webgpu: it has no deepspeed operators; these run as plain ONNX: Attention, .*MatMulAccumulate/,
    );
  });

  it('process.exit and an uncaught error in mid-run keep their status', async () => {
    const endless = { model: gpt2, deepspeed: {}, args: { maxSteps: 100_000 } };
    const file = writeScenario('endless', 1, 'webgpu', endless);
    for (const [end, status] of [
      ['process.exit(9)', 9],
      ["throw new Error('of the user')", 1],
    ] as const) {
      const ender = join(folder, `ender-${status}.mjs`);
      // Long enough for steps to run, at a moment that is not theirs.
      writeFileSync(ender, `setTimeout(() => { ${end}; }, 4000);`);
      const words = ['--import', 'tsx', '--import', ender, script, file];
      const ended = await runCommand(process.execPath, words, { cwd: root });
      expect(ended.status, ended.output).toBe(status);
      expect(ended.output).toContain('execution provider webgpu');
    }
  });
});

it.skipIf(process.platform !== 'linux')(
  'a machine without an adapter says so and what to do',
  async () => {
    const file = writeScenario('none', 1, 'webgpu', { model: gpt2, deepspeed: {} });
    const words = ['--num_procs', '1', script, file, join(folder, 'none')];
    const { status, stderr } = await runLauncher(words, {
      env: { VK_ICD_FILENAMES: join(folder, 'none.json'), VK_DRIVER_FILES: '' },
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/execution provider webgpu cannot be used: Failed to get a WebGPU adap/);
    expect(stderr).toMatch(/fix: For webgpu: install the driver of the GPU/);
    expect(stderr).toContain('(EXECUTION_PROVIDER)');
  },
);

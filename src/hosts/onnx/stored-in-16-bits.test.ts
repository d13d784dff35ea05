/** Passes that read parameters in 16 bits against the same passes over a widened copy of them: bit for bit. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { Trainer } from '../../trainer/trainer.ts';
import { AutoModelForCausalLM } from './causal-lm.ts';

const chosen = vi.hoisted(() => ({ widened: false }));
vi.mock('../../graph/narrow.ts', async (original) => {
  const { narrowParameters, ...rest } = await original<typeof import('../../graph/narrow.ts')>();
  type Plan = Parameters<typeof narrowParameters>[0];
  return {
    ...rest,
    narrowParameters: (plan: Plan) => (chosen.widened ? new Set() : narrowParameters(plan)),
  };
});
vi.spyOn(console, 'log').mockReturnValue();

const folder = mkdtempSync(join(tmpdir(), 'stored-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// Large enough for tile registers where the processor has them.
const length = 70;
const gpt2 = {
  model_type: 'gpt2',
  vocab_size: 61,
  n_positions: length,
  n_embd: 64,
  n_layer: 2,
  n_head: 2,
};
const llama = {
  model_type: 'llama',
  vocab_size: 61,
  max_position_embeddings: length,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
};

async function train(
  config: Record<string, unknown>,
  widened: boolean,
  deepspeed: Record<string, unknown>,
) {
  chosen.widened = widened;
  const model = AutoModelForCausalLM.fromConfig(config, { seed: 7 });
  const losses: number[] = [];
  const trainer = new Trainer({
    model,
    trainDataset: {
      length: 24,
      get: (row) => ({
        input_ids: Array.from({ length }, (_, i) => (row * 7 + i * 5 + ((i * row) % 3)) % 61),
      }),
    },
    args: {
      outputDir: folder,
      deepspeed,
      maxSteps: 3,
      perDeviceTrainBatchSize: 2,
      learningRate: 1e-2,
      loggingSteps: 1,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
    },
    callbacks: [{ onLog: ({ logs }) => void losses.push(Number(logs.loss)) }],
    runtime: { threads: 2 },
  });
  try {
    await trainer.train();
    const parameters = new Map<string, Float32Array>();
    for (const { name } of model.parameters)
      parameters.set(name, (await trainer.parameter(name)).slice());
    const { window, parameters: stored } = (await trainer.memory()).current;
    return { losses: losses.filter(Number.isFinite), parameters, window, stored };
  } finally {
    await trainer.close();
  }
}

describe.each([
  ['gpt2', gpt2, { bf16: { enabled: true } }],
  ['gpt2', gpt2, { fp16: { enabled: true, initial_scale_power: 4 } }],
  ['llama', llama, { bf16: { enabled: true }, zero_optimization: { stage: 2 } }],
] as const)('%s', (_, config, deepspeed) => {
  it(`gives the bits of a widened window: ${JSON.stringify(deepspeed)}`, async () => {
    const narrow = await train(config, false, deepspeed);
    const widened = await train(config, true, deepspeed);
    expect(narrow.losses.length).toBeGreaterThanOrEqual(3);
    expect(narrow.losses).toEqual(widened.losses);
    for (const [name, values] of narrow.parameters)
      expect(values, name).toEqual(widened.parameters.get(name));
    expect(narrow.stored).toBe(widened.stored);
    // Four bytes of nearly every element, of which two are stored: norms and biases are what is left.
    expect(widened.window - narrow.window).toBeGreaterThan(1.8 * narrow.stored);
  });
});

/** Several steps of training on fused operators against the same steps on the graph as it was. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { Trainer } from '../../trainer/trainer.ts';
import { AutoModelForCausalLM } from './causal-lm.ts';

const chosen = vi.hoisted(() => ({ fuse: true }));
vi.mock('./host.ts', async (original) => {
  const { OnnxHost, ...rest } = await original<typeof import('./host.ts')>();
  type Arguments = ConstructorParameters<typeof OnnxHost>;
  class Chosen extends OnnxHost {
    constructor(...[runtime, model, first, options]: Arguments) {
      super(runtime, model, first, { ...options, fuse: chosen.fuse });
    }
  }
  return { ...rest, OnnxHost: Chosen };
});
vi.spyOn(console, 'log').mockReturnValue();

const folder = mkdtempSync(join(tmpdir(), 'fused-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// Long and wide enough for the kernels of large sizes.
const length = 70;
const configs = {
  gpt2: {
    model_type: 'gpt2',
    vocab_size: 31,
    n_positions: length,
    n_embd: 64,
    n_layer: 2,
    n_head: 2,
    embd_pdrop: 0,
    attn_pdrop: 0,
    resid_pdrop: 0,
  },
  llama: {
    model_type: 'llama',
    vocab_size: 31,
    max_position_embeddings: length,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  },
};

async function train(config: Record<string, unknown>, fuse: boolean) {
  chosen.fuse = fuse;
  const model = AutoModelForCausalLM.fromConfig(config, { seed: 7 });
  const losses: number[] = [];
  const trainer = new Trainer({
    model,
    trainDataset: {
      length: 48,
      get: (row) => ({
        input_ids: Array.from({ length }, (_, i) => (row * 7 + i * 5 + ((i * row) % 3)) % 31),
      }),
    },
    args: {
      outputDir: folder,
      // Not Adam: it divides a gradient near zero by its own size, and rounding with it.
      deepspeed: { optimizer: { type: 'SGD', params: { lr: 0.1 } }, gradient_clipping: 0 },
      maxSteps: 6,
      perDeviceTrainBatchSize: 2,
      gradientAccumulationSteps: 2,
      lrSchedulerType: 'constant',
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
    return { losses: losses.filter(Number.isFinite), parameters };
  } finally {
    await trainer.close();
  }
}

describe.each(Object.entries(configs))('%s', (_, config) => {
  it('trains the same with and without fused operators', async () => {
    const fused = await train(config, true);
    const plain = await train(config, false);
    expect(fused.losses.length).toBeGreaterThanOrEqual(6);
    expect(fused.losses[5]!).toBeLessThan(fused.losses[0]!);
    // Sums of up to 280 terms in another order, through a dozen products and six steps.
    fused.losses.forEach((loss, step) => {
      expect(Math.abs(loss - plain.losses[step]!)).toBeLessThan(2e-5);
    });
    for (const [name, values] of fused.parameters) {
      const other = plain.parameters.get(name)!;
      const error = Math.max(...values.map((value, i) => Math.abs(value - other[i]!)));
      expect(error, name).toBeLessThan(2e-5);
    }
  });
});

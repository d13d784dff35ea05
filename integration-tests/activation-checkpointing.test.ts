/** Activations that backward computes again: less memory, and the same bits. */
import { describe, expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const samples = raggedSamples(24);
/** Embedding, four layers and the head: six segments. Dropout is on, attention's too. */
const model = { ...tinyGpt2, n_layer: 4, attn_pdrop: 0.1 };

interface Run {
  checkpoint?: boolean | number;
  worldSize?: number;
  model?: Record<string, unknown>;
  config?: Record<string, unknown>;
  zero?: Record<string, unknown>;
}

function scenarioOf(run: Run): Scenario {
  return {
    model: run.model ?? model,
    samples,
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 4,
      gradientCheckpointing: run.checkpoint ?? false,
      deepspeed: {
        train_micro_batch_size_per_gpu: 2,
        gradient_accumulation_steps: 2,
        optimizer: { type: 'AdamW', params: { lr: 2e-3, weight_decay: 0.1 } },
        ...run.config,
        zero_optimization: { reduce_bucket_size: 3000, ...run.zero },
      },
    },
  };
}

async function train(run: Run): Promise<Outcome> {
  return (await playRanks(run.worldSize ?? 1, scenarioOf(run)))[0]!;
}

function expectSame(actual: Outcome, expected: Outcome): void {
  expect(expected.losses.every(Number.isFinite)).toBe(true);
  expect(actual.losses).toEqual(expected.losses);
  expect(actual.gradientNorms).toEqual(expected.gradientNorms);
  expect(actual.parameters).toEqual(expected.parameters);
}

it.each([
  ['GPT-2', model],
  [
    'Llama',
    {
      model_type: 'llama',
      vocab_size: 61,
      hidden_size: 24,
      intermediate_size: 40,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 32,
    },
  ],
])('%s: however many segments share a checkpoint', async (_, trained) => {
  const kept = await train({ model: trained });
  const activations: number[] = [];
  for (const checkpoint of [true, 2, 3, 4]) {
    const outcome = await train({ model: trained, checkpoint });
    expectSame(outcome, kept);
    activations.push(outcome.memory.current.activations);
  }
  expect(Math.max(...activations)).toBeLessThan(kept.memory.current.activations);
});

it('a group of all segments is computed again by nobody: its backward comes next', async () => {
  const kept = await train({});
  const outcome = await train({ checkpoint: 6 });
  expectSame(outcome, kept);
  expect(outcome.memory.current.activations).toBe(kept.memory.current.activations);
});

it('number_checkpoints shares the segments out', async () => {
  const outcome = await train({ config: { activation_checkpointing: { number_checkpoints: 3 } } });
  const pairs = await train({ checkpoint: 2 });
  expectSame(outcome, pairs);
  expect(outcome.memory.current.activations).toBe(pairs.memory.current.activations);
});

/** Parameters are gathered again for what is computed again, and no sooner. */
describe.each([1, 3])('ZeRO 3 at 2 ranks, %i segments a checkpoint', (checkpoint) => {
  it.each([
    ['nothing stays', { stage3_prefetch_bucket_size: 0, stage3_max_reuse_distance: 0 }],
    ['a layer ahead', { stage3_prefetch_bucket_size: 5000, stage3_max_reuse_distance: 1 }],
  ])('%s', async (_, limits) => {
    const plain = await train({ worldSize: 2, zero: { stage: 2 } });
    const zero = { stage: 3, stage3_param_persistence_threshold: 0, ...limits };
    expectSame(await train({ worldSize: 2, checkpoint, zero }), plain);
  });
});

it('goes with 16 bits, and with layers that are dropped', async () => {
  for (const config of [
    { bf16: { enabled: true } },
    { progressive_layer_drop: { enabled: true, theta: 0.5, gamma: 1 } },
  ]) {
    expectSame(await train({ config, checkpoint: true }), await train({ config }));
  }
});

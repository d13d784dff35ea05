/** ZeRO stage 3: whatever is gathered when and where to, the bits are those of stage 2. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const globalBatch = 12;
// The last global batch of an epoch leaves some ranks without rows.
const samples = raggedSamples(2 * globalBatch + 7);

const tinyLlama = {
  model_type: 'llama',
  vocab_size: 61,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 32,
  tie_word_embeddings: false,
};

/** Nothing stays whole, a segment's parameters go when it has run, and nothing is gathered ahead. */
const bare = {
  stage3_param_persistence_threshold: 0,
  stage3_prefetch_bucket_size: 0,
  stage3_max_reuse_distance: 0,
};
/** About a layer ahead. */
const ahead = { ...bare, stage3_prefetch_bucket_size: 5000 };

interface Run {
  model?: Record<string, unknown>;
  stage: 0 | 1 | 2 | 3;
  worldSize: number;
  microBatches?: number;
  zero?: Record<string, unknown>;
  /** As on machines of their own. */
  apart?: boolean;
  config?: Record<string, unknown>;
}

function scenarioOf(run: Run): Scenario {
  const { model = tinyGpt2, stage, worldSize, microBatches = 1, apart = false } = run;
  return {
    model,
    samples,
    apart,
    args: {
      outputDir: temporaryFolder(),
      // An epoch has three.
      maxSteps: 4,
      deepspeed: {
        train_micro_batch_size_per_gpu: globalBatch / worldSize / microBatches,
        gradient_accumulation_steps: microBatches,
        optimizer: { type: 'AdamW', params: { lr: 2e-3, weight_decay: 0.1 } },
        gradient_clipping: 0.5,
        ...run.config,
        zero_optimization: { stage, reduce_bucket_size: 3000, ...run.zero },
      },
    },
  };
}

async function train(run: Run): Promise<Outcome> {
  const outcomes = await playRanks(run.worldSize, scenarioOf(run));
  for (const other of outcomes.slice(1)) expectSame(other, outcomes[0]!);
  return outcomes[0]!;
}

/** Bitwise. */
function expectSame(actual: Outcome, expected: Outcome): void {
  expect(expected.losses.every(Number.isFinite)).toBe(true);
  expect(actual.losses).toEqual(expected.losses);
  expect(actual.gradientNorms).toEqual(expected.gradientNorms);
  expect(actual.parameters).toEqual(expected.parameters);
}

describe.each([2, 3, 4])('at %i ranks', (worldSize) => {
  it.each([
    ['GPT-2, tied embeddings', tinyGpt2],
    ['Llama', tinyLlama],
  ])('%s', async (_, model) => {
    const plain = await train({ model, stage: 1, worldSize });
    for (const way of [
      { zero: bare },
      { zero: ahead },
      { zero: bare, apart: true },
      { zero: ahead, apart: true },
      { apart: true },
    ]) {
      expectSame(await train({ model, stage: 3, worldSize, ...way }), plain);
    }
  });
});

describe('at 2 ranks', () => {
  const worldSize = 2;

  it('with accumulation the bits are those of stage 2, or of stage 0 with reduce_at_boundary', async () => {
    const [run, zero] = [{ worldSize, microBatches: 3 }, ahead];
    expectSame(await train({ ...run, stage: 3, zero }), await train({ ...run, stage: 2 }));
    const boundary = { ...zero, reduce_at_boundary: true };
    expectSame(
      await train({ ...run, stage: 3, zero: boundary }),
      await train({ ...run, stage: 0 }),
    );
  });

  it('limits and buckets change when things move, not what comes out', async () => {
    const plain = await train({ stage: 0, worldSize });
    for (const zero of [
      { stage3_param_persistence_threshold: 100 },
      { stage3_param_persistence_threshold: 1000, stage3_model_persistence_threshold: 2000 },
      { stage3_max_live_parameters: 0 },
      { stage3_max_live_parameters: 8000, stage3_max_reuse_distance: 5000 },
      { overlap_comm: false, reduce_scatter: false },
    ]) {
      const run = { stage: 3, worldSize, zero: { ...ahead, ...zero } } as const;
      expectSame(await train({ ...run, apart: true }), plain);
      expectSame(await train(run), plain);
    }
  });

  it.each(['bf16', 'fp16'])('%s', async (precision) => {
    const scale = precision === 'fp16' ? { initial_scale_power: 12 } : {};
    const config = { [precision]: { enabled: true, ...scale } };
    const plain = await train({ stage: 2, worldSize, config });
    for (const zero of [bare, { ...ahead, stage3_param_persistence_threshold: 100 }]) {
      for (const apart of [false, true]) {
        expectSame(await train({ stage: 3, worldSize, zero, config, apart }), plain);
      }
    }
  });
});

it.each([2, 3])(
  'at %i ranks evaluates, predicts, generates and saves as stage 0 does',
  async (worldSize) => {
    const play = async (stage: 0 | 3, saveTo: string) => {
      const { model, samples: rows, args } = scenarioOf({ stage, worldSize, zero: ahead });
      return playRanks(worldSize, {
        model,
        samples: rows,
        args: { ...args, perDeviceEvalBatchSize: 1 },
        // No number of ranks divides them: some end with a batch without rows.
        evaluateOn: rows.slice(0, 7),
        generate: { prompt: [3, 24], maxNewTokens: 5 },
        saveTo,
      });
    };
    const [wholeFolder, folder] = [temporaryFolder(), temporaryFolder()];
    const whole = await play(0, wholeFolder);
    const gathered = await play(3, folder);
    const results = (ranks: typeof whole) => ranks.map(({ memory: _, ...result }) => result);
    expect(results(gathered)).toEqual(results(whole));
    expect(Object.keys(Object.assign({}, ...gathered.map((one) => one.predictions)))).toHaveLength(
      7,
    );
    for (const file of ['model.safetensors', 'onnx/model.onnx']) {
      expect(readFileSync(join(folder, file))).toEqual(readFileSync(join(wholeFolder, file)));
    }
    // What was saved is a model to go on with, at stage 3 from the first step.
    const more = (stage: 0 | 3) => ({
      ...scenarioOf({ stage, worldSize, zero: bare }),
      model: folder,
    });
    const [expected] = await playRanks(worldSize, more(0));
    const [actual] = await playRanks(worldSize, more(3));
    expectSame(actual!, expected!);
  },
);

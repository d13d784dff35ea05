import { beforeAll, describe, expect, it } from 'vitest';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import {
  playRanks,
  raggedSamples,
  relativeDifference,
  temporaryFolder,
  tinyGpt2,
  withoutKeyBias,
} from './training.ranks.ts';

/** Rows of one optimizer step, however they are dealt out. */
const globalBatch = 12;
// Three full global batches an epoch and one of 7 rows, which leaves some ranks without any.
const samples = raggedSamples(3 * globalBatch + 7);

/** Unit roundoff of fp32. */
const u = 2 ** -24;

interface Run {
  model?: Record<string, unknown>;
  stage: 0 | 1 | 2;
  worldSize: number;
  microBatches: number;
  zero?: Record<string, unknown>;
  config?: Record<string, unknown>;
  /** Copy the gradients after every micro batch. */
  tapped?: boolean;
  steps?: number;
}

function scenario(run: Run): Scenario {
  const { stage, worldSize, microBatches, steps = 20 } = run;
  const optimizer = { type: 'AdamW', params: { lr: 2e-3, weight_decay: 0.1 } };
  return {
    model: { ...tinyGpt2, ...run.model },
    samples,
    args: {
      outputDir: temporaryFolder(),
      strategy: run.tapped ? 'gradient_tap' : 'deepspeed',
      maxSteps: steps,
      deepspeed: {
        train_micro_batch_size_per_gpu: globalBatch / worldSize / microBatches,
        gradient_accumulation_steps: microBatches,
        optimizer,
        gradient_clipping: 0.5,
        ...run.config,
        // Several buckets, and shards that cut through parameters.
        zero_optimization: { stage, reduce_bucket_size: 3000, overlap_comm: true, ...run.zero },
        ...(run.tapped && { gradient_tap: { each_micro_batch: true } }),
      },
    },
  };
}

async function train(run: Run): Promise<Outcome> {
  const outcomes = await playRanks(run.worldSize, scenario(run));
  for (const other of outcomes.slice(1)) expectSame(other, outcomes[0]!);
  return outcomes[0]!;
}

/** Bitwise, since Float32Array equality is; NaN would be equal to itself, so it is excluded. */
function expectSame(actual: Outcome, expected: Outcome): void {
  expect(expected.losses.every(Number.isFinite)).toBe(true);
  expect(actual.losses).toEqual(expected.losses);
  expect(actual.gradientNorms).toEqual(expected.gradientNorms);
  expect(actual.parameters).toEqual(expected.parameters);
}

describe.each([2, 4])('at %i ranks', (worldSize) => {
  it('stages 0, 1 and 2 are bitwise equal without accumulation', async () => {
    const plain = await train({ stage: 0, worldSize, microBatches: 1 });
    for (const stage of [1, 2] as const) {
      expectSame(await train({ stage, worldSize, microBatches: 1 }), plain);
    }
  });

  it('stages 0 and 1 are bitwise equal with accumulation', async () => {
    const plain = await train({ stage: 0, worldSize, microBatches: 3 });
    expectSame(await train({ stage: 1, worldSize, microBatches: 3 }), plain);
  });

  it('stage 2 joins them where it reduces at the boundary only', async () => {
    const zero = { reduce_at_boundary: true };
    const plain = await train({ stage: 0, worldSize, microBatches: 3 });
    expectSame(await train({ stage: 1, worldSize, microBatches: 3, zero }), plain);
    expectSame(await train({ stage: 2, worldSize, microBatches: 3, zero }), plain);
    const scattered = { ...zero, reduce_scatter: false, overlap_comm: false };
    expectSame(await train({ stage: 2, worldSize, microBatches: 3, zero: scattered }), plain);
  });

  it('buckets, overlap and reduce_scatter change when things move, not what comes out', async () => {
    const plain = await train({ stage: 2, worldSize, microBatches: 1, steps: 6 });
    for (const zero of [
      { overlap_comm: false },
      { reduce_bucket_size: 1_000_000 },
      { reduce_bucket_size: 100, allgather_bucket_size: 1000 },
      { stage: 1, reduce_scatter: false },
    ]) {
      expectSame(await train({ stage: 2, worldSize, microBatches: 1, steps: 6, zero }), plain);
    }
  });
});

/**
 * docs/zero.md: with accumulation stage 2 adds over ranks first, then over micro batches, stages 0 and 1
 * the other way round. Both add the same K numbers, so an element differs by at most 2(K − 1)u Σ|g_k|
 * to first order, whatever the orders (Higham, Accuracy and Stability, 4.2). One step of plain SGD
 * shows the gradient: the new parameter adds one rounding of the update and one of itself on both sides.
 */
it('with accumulation stage 2 differs from stage 0 by the rounding of two orders of one sum', async () => {
  const [worldSize, microBatches, learningRate] = [2, 3, 0.5];
  const contributions = worldSize * microBatches;
  const run = {
    stage: 0,
    steps: 1,
    // Tied embeddings would be two contributions a micro batch.
    model: { tie_word_embeddings: false },
    config: {
      gradient_clipping: 0,
      optimizer: { type: 'SGD', params: { lr: learningRate } },
    },
  } as const;
  const { gradients } = await train({
    ...run,
    worldSize: 1,
    microBatches: contributions,
    tapped: true,
  });
  const whole = await train({ ...run, worldSize, microBatches });
  const sharded = await train({ ...run, stage: 2, worldSize, microBatches });
  expect(gradients).toHaveLength(contributions);
  let differing = 0;
  for (const [name, expected] of Object.entries(whole.parameters)) {
    const sumOfNorms = gradients.reduce((sum, soFar, index) => {
      const before = gradients[index - 1]?.[name];
      return sum + norm(soFar[name]!.map((value, at) => value - (before?.[at] ?? 0)));
    }, 0);
    const actual = sharded.parameters[name]!;
    const difference = norm(actual.map((value, at) => value - expected[at]!));
    const ofTheSum = learningRate * 2 * (contributions - 1) * u * sumOfNorms;
    const ofTheUpdate = 2 * u * (learningRate * sumOfNorms + norm(expected));
    expect(difference, name).toBeLessThanOrEqual(ofTheSum + ofTheUpdate);
    if (difference > 0) differing += 1;
  }
  // Were there nothing to bound, stage 2 should join the bitwise tests above.
  expect(differing).toBeGreaterThan(0);
});

const norm = (values: Float32Array) => Math.hypot(...values);

/**
 * Ranks and micro batches pad their rows to lengths of their own. A mask that depended on them would
 * move every weight by a share of the learning rate, 2e-3, within a step.
 */
it('attention drops the same probabilities, however far a sample is padded', async () => {
  const dropping = { model: { attn_pdrop: 0.3 }, stage: 0, steps: 5 } as const;
  const alone = await train({ ...dropping, worldSize: 1, microBatches: 1 });
  const without = { ...dropping, model: { attn_pdrop: 0 } };
  const plain = await train({ ...without, worldSize: 1, microBatches: 1 });
  for (const [worldSize, microBatches] of [
    [1, 4],
    [2, 3],
  ] as const) {
    const actual = await train({ ...dropping, worldSize, microBatches });
    for (const [name, values] of Object.entries(alone.parameters)) {
      const expected = withoutKeyBias(name, values);
      const difference = (other: Outcome) =>
        relativeDifference(withoutKeyBias(name, other.parameters[name]!), expected);
      expect(difference(actual), name).toBeLessThan(1e-5);
      expect(difference(plain), name).toBeGreaterThan(1e-4);
    }
  }
});

describe('20 steps equal one process on the same global batches', () => {
  let alone: Outcome;
  beforeAll(async () => {
    alone = await train({ stage: 0, worldSize: 1, microBatches: 1 });
  });

  it.each([
    { worldSize: 1, microBatches: 4, stage: 0 },
    { worldSize: 1, microBatches: 4, stage: 2 },
    { worldSize: 2, microBatches: 1, stage: 1 },
    { worldSize: 2, microBatches: 3, stage: 2 },
    { worldSize: 3, microBatches: 2, stage: 0 },
    { worldSize: 3, microBatches: 4, stage: 1 },
    { worldSize: 3, microBatches: 1, stage: 2 },
    { worldSize: 4, microBatches: 3, stage: 1 },
    { worldSize: 4, microBatches: 3, stage: 2 },
  ] as const)('$worldSize ranks, $microBatches micro batches, stage $stage', async (run) => {
    const actual = await train(run);
    expect(actual.losses).toHaveLength(20);
    for (const [name, values] of Object.entries(alone.parameters)) {
      const difference = relativeDifference(
        withoutKeyBias(name, actual.parameters[name]!),
        withoutKeyBias(name, values),
      );
      expect(difference, name).toBeLessThan(1e-5);
    }
  });
});

/** A checkpoint that is written beside training holds back what it has not read yet, and nothing else. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { CheckpointEvent } from '../../hooks/index.ts';
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { loadAddon } from '../../native/index.ts';
import { parseArguments } from '../../trainer/arguments.ts';
import { SavingCheckpoint } from '../../trainer/saving-checkpoint.ts';
import { setUpTraining, type Training } from '../../trainer/setup.ts';
import { trainStep } from '../../trainer/step.ts';

const addon = loadAddon();
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
});
afterEach(() => {
  addon.holdFaultPoint(0);
  rmSync(directory, { recursive: true, force: true });
});

const subGroup = 2048;
/** Of a file: before it exists, and empty. */
const pointsBefore = 2;

function setUp(more: object): Promise<Training> {
  const given = {
    outputDir: directory,
    perDeviceTrainBatchSize: 2,
    learningRate: 1e-2,
    lrSchedulerType: 'constant' as const,
    maxSteps: 10,
    deepspeed: { zero_optimization: { stage: 2, sub_group_size: subGroup }, ...more },
  };
  const model = AutoModelForCausalLM.fromConfig({
    model_type: 'gpt2',
    vocab_size: 61,
    n_positions: 16,
    n_embd: 16,
    n_layer: 2,
    n_head: 2,
  });
  return setUpTraining({
    model,
    given,
    args: parseArguments(given),
    trainDataset: Array.from({ length: 8 }, (_, row) => ({
      input_ids: Array.from({ length: 8 }, (_, at) => (row * 7 + at * 5) % 61),
    })),
    runtime: { threads: 1 },
  });
}

const oneBit = (type: string, params: object = { freeze_step: 1 }) => ({
  optimizer: { type, params: { lr: 1e-2, ...params } },
  zero_optimization: { stage: 0, sub_group_size: subGroup },
});

interface Case {
  config: object;
  /** Of the file: state of a rank alone, which is written first. */
  alone?: number;
  /** Of every sub-group: weights and states. */
  each?: number;
  /** Updates after all sub-groups. */
  after?: number;
}

it.each<Case>([
  { config: {} },
  { config: { bf16: { enabled: true } } },
  // Sub-groups of the momentum, then what it does to the weights.
  { config: oneBit('OneBitAdam'), alone: 2, after: 1 },
  { config: oneBit('OneBitLamb'), alone: 3, each: 4, after: 1 },
  // The third step is in one bit an element; an exchange; the first of those that ranks take alone, an exchange too.
  { config: oneBit('ZeroOneAdam', { var_update_scaler: 1 }), alone: 5, after: 1 },
  {
    config: oneBit('ZeroOneAdam', { var_freeze_step: 1, local_step_scaler: 1 }),
    alone: 5,
    after: 3,
  },
  { config: oneBit('ZeroOneAdam', { var_freeze_step: 2 }), alone: 5, after: 3 },
])(
  'an update of what has been read goes on while the rest is being written: $config',
  async ({ config, alone = 0, each = 3, after = 0 }) => {
    const training = await setUp(config);
    try {
      const { session, source, runtime } = training;
      const { value: parts } = await source!.epoch(0, 0).next();
      await trainStep(training, 0, parts!);
      await trainStep(training, 1, parts!);
      const weights = session.claims.owner('weights')!;
      const names = session.layout.slots.map(({ name }) => name);
      const all = async () =>
        new Map(
          await Promise.all(names.map(async (name) => [name, await weights.read(name)] as const)),
        );
      const saved = await all();

      // The writer stops in the second sub-group.
      addon.holdFaultPoint(pointsBefore + alone + each + 1);
      const event: CheckpointEvent = { directory, tag: 'held', state: {}, background: true };
      await session.lifecycle.run('saveCheckpoint', event);
      training.saving = new SavingCheckpoint(directory, event.pending!);
      const traced = () => runtime.engine.takeRecords().map(({ name }) => name);
      runtime.engine.setTracing(true);
      const step = trainStep(training, 2, parts!);
      const ended: string[] = [];
      while (!ended.includes('optimizerStep')) {
        await sleep(1);
        ended.push(...traced());
      }
      // Long enough for another sub-group, were it not held.
      await sleep(50);
      ended.push(...traced());
      expect(ended.filter((name) => name === 'optimizerStep')).toHaveLength(1);

      addon.holdFaultPoint(0);
      await step;
      await training.saving.finish();
      training.saving = null;
      ended.push(...traced());
      const subGroups = Math.ceil(session.layout.total / subGroup);
      expect(subGroups).toBeGreaterThan(3);
      expect(ended.filter((name) => name === 'optimizerStep')).toHaveLength(subGroups + after);
      expect(await all()).not.toEqual(saved);
      await session.lifecycle.run('loadCheckpoint', { directory, tag: 'held', state: {} });
      expect(await all()).toEqual(saved);
    } finally {
      addon.holdFaultPoint(0);
      training.runtime.close();
    }
  },
);

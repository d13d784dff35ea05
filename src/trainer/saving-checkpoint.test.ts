import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import { Trainer } from './trainer.ts';
import { SavingCheckpoint } from './saving-checkpoint.ts';

/** One that is loadable when it has proceeded twice. */
function begun() {
  const calls: string[] = [];
  const saving = new SavingCheckpoint('out', {
    isReady: false,
    read: async () => void calls.push('read'),
    abandon: async () => {},
    proceed: async () => {
      calls.push('proceed');
      return calls.filter((call) => call === 'proceed').length < 2
        ? null
        : { folder: 'out', bytes: 1 };
    },
  });
  return { saving, calls };
}

it('goes on after a step where all ranks are ready', async () => {
  const { saving, calls } = begun();
  await saving.afterStep(true);
  expect(saving.isLoadable).toBe(false);
  await saving.afterStep(true);
  expect(saving.isLoadable).toBe(true);
  await saving.finish();
  expect(calls).toEqual(['proceed', 'proceed']);
});

it('is done faster where one is not, and waited for after the third step', async () => {
  const { saving, calls } = begun();
  await saving.afterStep(false);
  await saving.afterStep(false);
  expect(calls).toEqual(['read', 'read']);
  await saving.afterStep(false);
  expect(saving.isLoadable).toBe(true);
  expect(calls.slice(2)).toEqual(['read', 'proceed', 'proceed']);
});

it('is loadable where a run fails beside it', async () => {
  const outputDir = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
  const trainer = new Trainer({
    model: AutoModelForCausalLM.fromConfig({
      model_type: 'gpt2',
      vocab_size: 31,
      n_positions: 8,
      n_embd: 8,
      n_layer: 1,
      n_head: 1,
    }),
    trainDataset: Array.from({ length: 8 }, (_, row) => ({ input_ids: [row, 1, 2, 3] })),
    args: {
      outputDir,
      maxSteps: 5,
      perDeviceTrainBatchSize: 2,
      saveStrategy: 'steps',
      saveSteps: 2,
      asyncSave: true,
      reportTo: [],
      disableTqdm: true,
    },
    callbacks: [
      {
        onStepBegin({ state }) {
          if (state.step === 2) throw new Error('on purpose');
        },
      },
    ],
    runtime: { threads: 1 },
  });
  try {
    await expect(trainer.train()).rejects.toThrow('on purpose');
    expect(readFileSync(join(outputDir, 'latest'), 'utf8')).toBe('global_step2\n');
  } finally {
    await trainer.close();
    rmSync(outputDir, { recursive: true });
  }
});

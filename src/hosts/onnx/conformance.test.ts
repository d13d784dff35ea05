/** The onnx host under the suite that every host passes, driven by the Trainer. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { Trainer } from '../../trainer/trainer.ts';
import { hostConformance } from '../conformance.case.ts';
import { AutoModelForCausalLM } from './causal-lm.ts';

const scratch = mkdtempSync(join(tmpdir(), 'deepspeed-js-onnx-host-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const rows = Array.from({ length: 48 }, (_, row) => ({
  input_ids: Array.from({ length: 8 }, (_, i) => (row * 7 + i * 5) % 31),
}));
const dataset = { length: rows.length, get: (index: number) => rows[index]! };

hostConformance({
  name: 'onnx',
  needs: ['gradients', 'optimizerStep'],
  offers: new Set(['evaluate', 'checkpoint']),
  async train({ plugin, deepspeed, steps, evaluate, saveTo, resumeFrom }) {
    const trainer = new Trainer({
      model: AutoModelForCausalLM.fromConfig({
        model_type: 'gpt2',
        vocab_size: 31,
        n_positions: 8,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        embd_pdrop: 0,
        attn_pdrop: 0,
        resid_pdrop: 0,
      }),
      trainDataset: dataset,
      evalDataset: { length: 4, get: dataset.get },
      args: {
        outputDir: saveTo ?? scratch,
        strategy: plugin,
        deepspeed,
        maxSteps: steps,
        perDeviceTrainBatchSize: 2,
        gradientAccumulationSteps: deepspeed.gradient_accumulation_steps as number,
        lrSchedulerType: 'constant',
        saveStrategy: saveTo === undefined ? 'no' : 'steps',
        saveSteps: steps,
        reportTo: [],
        disableTqdm: true,
      },
      runtime: { threads: 1 },
    });
    try {
      await trainer.train(resumeFrom === undefined ? {} : { resumeFromCheckpoint: resumeFrom });
      if (evaluate) await trainer.evaluate();
    } finally {
      await trainer.close();
    }
  },
});

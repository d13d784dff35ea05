import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import { tokenBlocks } from './dataset.ts';
import { Trainer } from './trainer.ts';

const folder = mkdtempSync(join(tmpdir(), 'dsjs-load-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tokens = Int32Array.from({ length: 16 * 12 }, (_, index) => (index * index + 3 * index) % 31);

function trainer(outputDir: string): Trainer {
  return new Trainer({
    model: AutoModelForCausalLM.fromConfig({
      model_type: 'gpt2',
      n_layer: 1,
      n_embd: 16,
      n_head: 2,
      vocab_size: 32,
      n_positions: 16,
    }),
    // Six steps an epoch: step 4 lies in the middle of one, step 8 in the next.
    trainDataset: tokenBlocks(tokens, 16),
    args: {
      outputDir,
      maxSteps: 8,
      perDeviceTrainBatchSize: 2,
      saveSteps: 4,
      learningRate: 1e-2,
      reportTo: [],
      disableTqdm: true,
    },
    runtime: { threads: 1 },
  });
}

it('goes on in the data where a loaded checkpoint was written', async () => {
  const straight = trainer(join(folder, 'straight'));
  await straight.train();
  const expected = (await straight.parameter('transformer.wte.weight')).slice();
  await straight.close();

  const loaded = trainer(join(folder, 'loaded'));
  await loaded.loadCheckpoint(join(folder, 'straight', 'global_step4'));
  expect(loaded.state.position).toEqual({ epoch: 0, samplesInEpoch: 8 });
  await loaded.train();
  expect(await loaded.parameter('transformer.wte.weight')).toEqual(expected);
  await loaded.close();
});

it('a file of a checkpoint that cannot be written is an error with a fix', async () => {
  const out = join(folder, 'blocked');
  mkdirSync(join(out, 'latest', 'in the way'), { recursive: true });
  const stopped = trainer(out);
  await expect(stopped.train()).rejects.toMatchObject({
    code: 'OUTPUT_NOT_WRITABLE',
    message: expect.stringContaining('latest'),
    fix: expect.stringContaining('disk is not full'),
    cause: { name: 'NativeError' },
  });
  await stopped.close();
});

/** For tests: a few steps of a small language model, large enough for the kernels of large sizes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MemoryAccount } from '../../native/index.ts';
import type { TrainingArguments } from '../../trainer/arguments.ts';
import { Trainer } from '../../trainer/trainer.ts';
import { AutoModelForCausalLM } from '../onnx/causal-lm.ts';

const length = 70;
const vocabulary = 61;

/** By family. Dropout is GPT-2's own. */
export const smallModels = {
  gpt2: {
    model_type: 'gpt2',
    vocab_size: vocabulary,
    n_positions: length,
    n_embd: 64,
    n_layer: 2,
    n_head: 2,
  },
  llama: {
    model_type: 'llama',
    vocab_size: vocabulary,
    max_position_embeddings: length,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  },
};

export interface SmallRun {
  /** One for each step. */
  losses: number[];
  parameters: Map<string, Float32Array>;
  memory: MemoryAccount;
}

/** Trains on one rank of two threads, from the same weights and on the same rows every time. */
export async function trainSmall(
  config: Record<string, unknown>,
  args: Omit<TrainingArguments, 'outputDir'>,
): Promise<SmallRun> {
  const folder = mkdtempSync(join(tmpdir(), 'small-'));
  const model = AutoModelForCausalLM.fromConfig(config, { seed: 7 });
  const losses: number[] = [];
  const row = (index: number) =>
    Array.from({ length }, (_, i) => (index * 7 + i * 5 + ((i * index) % 3)) % vocabulary);
  const trainer = new Trainer({
    model,
    trainDataset: { length: 48, get: (index) => ({ input_ids: row(index) }) },
    args: {
      outputDir: folder,
      perDeviceTrainBatchSize: 2,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
      ...args,
    },
    callbacks: [{ onStepEnd: ({ metrics }) => void losses.push(metrics.loss) }],
    runtime: { threads: 2 },
  });
  try {
    await trainer.train();
    const parameters = new Map<string, Float32Array>();
    for (const { name } of model.parameters)
      parameters.set(name, (await trainer.parameter(name)).slice());
    return { losses, parameters, memory: await trainer.memory() };
  } finally {
    await trainer.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

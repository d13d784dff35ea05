/** A GPT-2 in training on random tokens, as the Trainer sets it up. */
import { AutoModelForCausalLM } from '../../src/hosts/onnx/causal-lm.ts';
import { parseArguments, type TrainingArguments } from '../../src/trainer/arguments.ts';
import type { MicroBatch } from '../../src/trainer/batch-source.ts';
import { setUpTraining, type Training } from '../../src/trainer/setup.ts';

export interface Gpt2Shape {
  width: number;
  layers: number;
  vocabulary: number;
  /** Tokens of a row. */
  length: number;
  /** Rows of a micro batch, on each rank. */
  rows: number;
}

/** Heads of 64, dropout off, no clipping: what the peers do too. */
export function setUpGpt2(
  shape: Gpt2Shape,
  args: Omit<TrainingArguments, 'outputDir'>,
): Promise<Training> {
  const model = AutoModelForCausalLM.fromConfig({
    model_type: 'gpt2',
    vocab_size: shape.vocabulary,
    n_positions: shape.length,
    n_embd: shape.width,
    n_layer: shape.layers,
    n_head: shape.width / 64,
    embd_pdrop: 0,
    attn_pdrop: 0,
    resid_pdrop: 0,
  });
  const given: TrainingArguments = {
    outputDir: 'unused', // nothing is saved
    perDeviceTrainBatchSize: shape.rows,
    maxSteps: 1_000_000,
    learningRate: 1e-4,
    weightDecay: 0.1,
    maxGradNorm: 0,
    ...args,
  };
  const trainDataset = {
    length: 4096,
    get: (index: number) => ({ input_ids: randomTokens(index, shape) }),
  };
  const parsed = parseArguments(given);
  return setUpTraining({ model, given, args: parsed, trainDataset, runtime: {} });
}

/** This rank's micro batches, without end. */
export async function* globalBatches({ source }: Training): AsyncGenerator<MicroBatch[]> {
  for (let epoch = 0; ; epoch += 1) yield* source!.epoch(epoch, 0);
}

/** A row of tokens that depends on its index only (Knuth's linear congruential generator). */
function randomTokens(index: number, { length, vocabulary }: Gpt2Shape): Int32Array {
  let state = index + 1;
  return Int32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabulary);
  });
}

/** Language models to measure, and their training on random tokens, as the Trainer sets it up. */
import { AutoModelForCausalLM } from '../../src/hosts/onnx/causal-lm.ts';
import type { RuntimeOptions } from '../../src/runtime.ts';
import { parseArguments, type TrainingArguments } from '../../src/trainer/arguments.ts';
import type { MicroBatch } from '../../src/trainer/batch-source.ts';
import { setUpTraining, type Training } from '../../src/trainer/setup.ts';

export interface ModelShape {
  /** Default gpt2. */
  family?: 'gpt2' | 'llama';
  width: number;
  layers: number;
  /** Default: heads of 64. */
  heads?: number;
  vocabulary: number;
  /** Tokens of a row. */
  length: number;
  /** Rows of a micro batch, on each rank. */
  rows: number;
  /** Default true: the head is the embedding. */
  tied?: boolean;
}

/** What the demo trains. */
export const demoShape = { width: 256, layers: 4 };

/**
 * Dropout off; a Llama has a third as many key heads, and its MLP the next multiple of 64 of
 * 8/3 widths, so that both families have about as many weights.
 */
export function modelConfig(shape: Omit<ModelShape, 'rows'>): Record<string, unknown> {
  const { family = 'gpt2', width, layers, heads = width / 64, vocabulary, length } = shape;
  const { tied = true } = shape;
  if (family === 'gpt2') {
    return {
      model_type: 'gpt2',
      vocab_size: vocabulary,
      n_positions: length,
      n_embd: width,
      n_layer: layers,
      n_head: heads,
      embd_pdrop: 0,
      attn_pdrop: 0,
      resid_pdrop: 0,
      tie_word_embeddings: tied,
    };
  }
  return {
    model_type: 'llama',
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: Math.ceil((8 * width) / 3 / 64) * 64,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads / 3,
    max_position_embeddings: length,
    tie_word_embeddings: tied,
  };
}

/** No clipping: what the peers do too. */
export function setUpModel(
  shape: ModelShape,
  args: Omit<TrainingArguments, 'outputDir'>,
  runtime: RuntimeOptions = {},
): Promise<Training> {
  const model = AutoModelForCausalLM.fromConfig(modelConfig(shape));
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
  return setUpTraining({ model, given, args: parsed, trainDataset, runtime });
}

/** This rank's micro batches, without end. */
export async function* globalBatches({ source }: Training): AsyncGenerator<MicroBatch[]> {
  for (let epoch = 0; ; epoch += 1) yield* source!.epoch(epoch, 0);
}

/** A row of tokens that depends on its index only (Knuth's linear congruential generator). */
function randomTokens(index: number, { length, vocabulary }: ModelShape): Int32Array {
  let state = index + 1;
  return Int32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabulary);
  });
}

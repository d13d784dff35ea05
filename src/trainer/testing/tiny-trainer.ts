/** For tests: the smallest model that is worth training, samples for it, and a Trainer of both. */
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { Trainer, type TrainerOptions } from '../trainer.ts';

export const tinyGpt2 = {
  model_type: 'gpt2',
  vocab_size: 31,
  n_positions: 8,
  n_embd: 8,
  n_layer: 1,
  n_head: 1,
};

/** Samples of eight tokens: the first 31 differ. */
export const tinySamples = (count: number) =>
  Array.from({ length: count }, (_, row) => ({
    input_ids: Array.from({ length: 8 }, (_, at) => (row * 5 + at * 3) % 31),
  }));

/** On one thread, two samples a step; it saves and reports nothing that is not asked for. */
export function tinyTrainer(
  args: TrainerOptions['args'],
  options: Partial<Omit<TrainerOptions, 'args'>> = {},
): Trainer {
  return new Trainer({
    model: AutoModelForCausalLM.fromConfig(tinyGpt2),
    trainDataset: tinySamples(16),
    args: {
      perDeviceTrainBatchSize: 2,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
      ...args,
    },
    ...options,
    runtime: { threads: 1, ...options.runtime },
  });
}

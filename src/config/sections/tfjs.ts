/** How a TensorFlow.js script is split over ranks: of this project, not of DeepSpeed; docs/tfjs.md. */
import { available, flag, optionalSection, texts } from '../key.ts';

export const tfjsKeys = {
  tfjs: optionalSection('How TensorFlow.js scripts are split over ranks; other hosts refuse it.', {
    verify_first_batch: available(
      flag,
      true,
      'The first batch also runs whole on every rank, and a loss, metric or gradient that differs stops the run.',
    ),
    exact_random: available(
      flag,
      false,
      'Random layers give each row the numbers that it would get in the whole batch.',
    ),
    declared: available(
      texts,
      [] as string[],
      'Layers, losses and metrics, by name, that are taken for splittable by rows although they look otherwise.',
    ),
  }),
};

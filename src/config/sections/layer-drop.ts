/** Layers that a step leaves out. */
import { available, flag, nonNegative, positiveFraction, section } from '../key.ts';

export const layerDropKeys = {
  progressive_layer_drop: section('Drop layers more and more often as training goes on.', {
    enabled: available(flag, false, 'Switch it on.'),
    theta: available(
      positiveFraction,
      null,
      'What the schedule falls towards: of the deepest layers, about the share of steps that keep them.',
    ),
    gamma: available(nonNegative, null, 'How fast it falls, for each optimizer step.'),
  }),
};

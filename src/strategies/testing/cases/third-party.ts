/** For the conformance suite: a strategy as somebody else would write it, with a section and a state. */
import { z } from 'zod';
import { requireCapability } from '../../../hooks/index.ts';
import { applyDeepSpeed } from '../../deepspeed.ts';
import type { StrategyPlugin } from '../../plugin.ts';

const schema = z.strictObject({
  every: z.number().int().positive(),
  skip_layers: z.boolean().default(false),
});

export const strategy = (): StrategyPlugin => ({
  name: 'counting',
  section: { key: 'counting', schema },
  apply(context) {
    const { host, lifecycle, config } = context;
    const section = config?.extensions.counting as z.infer<typeof schema> | undefined;
    if (section?.skip_layers) requireCapability(host, 'layerSkipping', 'counting.skip_layers');
    applyDeepSpeed(context);
    let steps = 0;
    lifecycle.tap('metrics', 'observe', 'counting.count', () => {
      steps += 1;
    });
    lifecycle.tap('saveCheckpoint', 'plan', 'counting.save', async ({ state }) => {
      state.counting = steps;
    });
    lifecycle.tap('loadCheckpoint', 'observe', 'counting.load', async ({ state }) => {
      steps = state.counting as number;
    });
  },
});

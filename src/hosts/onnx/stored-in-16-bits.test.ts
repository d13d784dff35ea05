/** Passes that read parameters in 16 bits against the same passes over a widened copy of them: bit for bit. */
import { describe, expect, it, vi } from 'vitest';
import { smallModels, trainSmall } from '../testing/train-small.ts';

const chosen = vi.hoisted(() => ({ widened: false }));
vi.mock('../../graph/narrow.ts', async (original) => {
  const { narrowParameters, ...rest } = await original<typeof import('../../graph/narrow.ts')>();
  type Plan = Parameters<typeof narrowParameters>[0];
  return {
    ...rest,
    narrowParameters: (plan: Plan) => (chosen.widened ? new Set() : narrowParameters(plan)),
  };
});
vi.spyOn(console, 'log').mockReturnValue();

async function train(
  config: Record<string, unknown>,
  widened: boolean,
  deepspeed: Record<string, unknown>,
) {
  chosen.widened = widened;
  const args = { deepspeed, maxSteps: 3, learningRate: 1e-2 };
  const { memory, ...run } = await trainSmall(config, args);
  const { window, parameters: stored } = memory.current;
  return { ...run, window, stored };
}

describe.each([
  ['gpt2', smallModels.gpt2, { bf16: { enabled: true } }],
  ['gpt2', smallModels.gpt2, { fp16: { enabled: true, initial_scale_power: 4 } }],
  ['llama', smallModels.llama, { bf16: { enabled: true }, zero_optimization: { stage: 2 } }],
] as const)('%s', (_, config, deepspeed) => {
  it(`gives the bits of a widened window: ${JSON.stringify(deepspeed)}`, async () => {
    const narrow = await train(config, false, deepspeed);
    const widened = await train(config, true, deepspeed);
    expect(narrow.losses).toHaveLength(3);
    expect(narrow.losses).toEqual(widened.losses);
    for (const [name, values] of narrow.parameters)
      expect(values, name).toEqual(widened.parameters.get(name));
    expect(narrow.stored).toBe(widened.stored);
    // Four bytes of nearly every element, of which two are stored: norms and biases are what is left.
    expect(widened.window - narrow.window).toBeGreaterThan(1.8 * narrow.stored);
  });
});

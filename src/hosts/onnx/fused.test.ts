/** Several steps of training on fused operators against the same steps on the graph as it was. */
import { describe, expect, it, vi } from 'vitest';
import { smallModels, trainSmall } from '../testing/train-small.ts';

const chosen = vi.hoisted(() => ({ fuse: true }));
vi.mock('./host.ts', async (original) => {
  const { OnnxHost, ...rest } = await original<typeof import('./host.ts')>();
  type Arguments = ConstructorParameters<typeof OnnxHost>;
  class Chosen extends OnnxHost {
    constructor(...[runtime, model, first, options]: Arguments) {
      super(runtime, model, first, { ...options, fuse: chosen.fuse });
    }
  }
  return { ...rest, OnnxHost: Chosen };
});
vi.spyOn(console, 'log').mockReturnValue();

const configs = {
  gpt2: { ...smallModels.gpt2, embd_pdrop: 0, attn_pdrop: 0, resid_pdrop: 0 },
  llama: smallModels.llama,
};

function train(config: Record<string, unknown>, fuse: boolean) {
  chosen.fuse = fuse;
  return trainSmall(config, {
    // Not Adam: it divides a gradient near zero by its own size, and rounding with it.
    deepspeed: { optimizer: { type: 'SGD', params: { lr: 0.1 } }, gradient_clipping: 0 },
    maxSteps: 6,
    gradientAccumulationSteps: 2,
    lrSchedulerType: 'constant',
  });
}

describe.each(Object.entries(configs))('%s', (_, config) => {
  it('trains the same with and without fused operators', async () => {
    const fused = await train(config, true);
    const plain = await train(config, false);
    expect(fused.losses).toHaveLength(6);
    expect(fused.losses[5]!).toBeLessThan(fused.losses[0]!);
    // Sums of up to 280 terms in another order, through a dozen products and six steps.
    fused.losses.forEach((loss, step) => {
      expect(Math.abs(loss - plain.losses[step]!)).toBeLessThan(2e-5);
    });
    for (const [name, values] of fused.parameters) {
      const other = plain.parameters.get(name)!;
      const error = Math.max(...values.map((value, i) => Math.abs(value - other[i]!)));
      expect(error, name).toBeLessThan(2e-5);
    }
  });
});

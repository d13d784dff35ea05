/** Steps of training on fused operators against the same steps as a provider without them would compute them. */
import { expect, it, vi } from 'vitest';
import { smallModels, trainSmall } from '../testing/train-small.ts';

const chosen = vi.hoisted(() => ({ lowerArithmetic: false, used: 0 }));
vi.mock('./outline.ts', async (original) => {
  const module = await original<typeof import('./outline.ts')>();
  const planModel: typeof module.planModel = (model, batch, options) => {
    const plan = module.planModel(model, batch, { ...options, ...chosen });
    chosen.used += plan.lowered?.size ?? 0;
    return plan;
  };
  return { ...module, planModel };
});
vi.spyOn(console, 'log').mockReturnValue();

async function train(lowerArithmetic: boolean, ...args: Parameters<typeof trainSmall>) {
  Object.assign(chosen, { lowerArithmetic, used: 0 });
  const run = await trainSmall(...args);
  expect(chosen.used > 0).toBe(lowerArithmetic);
  return run;
}

const sgd = { optimizer: { type: 'SGD', params: { lr: 0.1 } }, gradient_clipping: 0 };
const args = { maxSteps: 4, gradientAccumulationSteps: 2, lrSchedulerType: 'constant' } as const;

it.each([
  // Dropout of embeddings, residuals and attention is on: its masks are the same.
  ['gpt2', smallModels.gpt2, { ...args, deepspeed: sgd }, 2e-5],
  ['llama', smallModels.llama, { ...args, deepspeed: sgd, gradientCheckpointing: true }, 2e-5],
  [
    'gpt2, stage 3',
    smallModels.gpt2,
    { ...args, deepspeed: { ...sgd, zero_optimization: { stage: 3 } } },
    2e-5,
  ],
  // Stored in 16 bits of which 8 are the fraction's: what rounds the other way differs by 2⁻⁹.
  [
    'llama, bf16',
    smallModels.llama,
    { ...args, deepspeed: { ...sgd, bf16: { enabled: true } } },
    4e-3,
  ],
])('%s trains the same in plain ONNX', async (_, config, options, tolerance) => {
  const fused = await train(false, config, options);
  const plain = await train(true, config, options);
  expect(fused.losses).toHaveLength(4);
  expect(fused.losses[3]!).toBeLessThan(fused.losses[0]!);
  fused.losses.forEach((loss, step) => {
    expect(Math.abs(loss - plain.losses[step]!)).toBeLessThan(tolerance);
  });
  for (const [name, values] of fused.parameters) {
    const other = plain.parameters.get(name)!;
    const error = Math.max(...values.map((value, i) => Math.abs(value - other[i]!)));
    expect(error, name).toBeLessThan(tolerance);
  }
});

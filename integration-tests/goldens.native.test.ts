import { describe, expect, it } from 'vitest';
import type { Tensor } from '../src/graph/ir.ts';
import { toNumbers } from '../src/graph/tensor.ts';
import { type Golden, goldenCases, loadGolden } from '../src/models/testing/goldens.ts';
import type { Sample } from '../src/transformers.ts';
import { play, type Scenario } from './fixtures/training/scenario.ts';
import { relativeDifference, temporaryFolder, withoutKeyBias } from './training.ranks.ts';

/**
 * A golden's rows as samples. Golden labels are shifted already, a sample's are not: one more token at
 * the end, which no earlier position sees, makes room for the last target.
 */
function samplesOf(inputs: Tensor, targets: Tensor, mask?: Tensor): Sample[] {
  const length = inputs.dims.at(-1)!;
  const rows = (tensor: Tensor) => {
    const values = toNumbers(tensor);
    return Array.from({ length: values.length / length }, (_, row) =>
      values.slice(row * length, (row + 1) * length),
    );
  };
  const labels = rows(targets);
  const visible = mask && rows(mask);
  const counted = (row: number, at: number) => visible === undefined || visible[row]![at] !== 0;
  return rows(inputs).map((ids, row) => ({
    input_ids: [...ids, 0],
    labels: [-100, ...labels[row]!.map((label, at) => (counted(row, at) ? label : -100))],
    ...(visible && { attention_mask: [...visible[row]!, 1] }),
  }));
}

/** Strategy `gradient_tap` with a DeepSpeed config, on rows in the golden's order. */
function scenario(golden: Golden, samples: Sample[], config: Record<string, unknown>): Scenario {
  return {
    model: golden.dir,
    samples,
    inOrder: true,
    args: {
      outputDir: temporaryFolder(),
      strategy: 'gradient_tap',
      maxSteps: samples.length / 3,
      padToMultipleOf: 1,
      deepspeed: {
        train_micro_batch_size_per_gpu: 3,
        gradient_accumulation_steps: 1,
        zero_optimization: { stage: 0 },
        ...config,
      },
    },
  };
}

/** Looks at a model and leaves it as it is. */
const looking = { optimizer: { type: 'SGD', params: { lr: 0 } } };

describe.each(goldenCases)('%s in the engine', (name) => {
  const golden = loadGolden(name);
  const tensor = (key: string) => golden.tensors.get(key)!;

  it('has the loss, every gradient and the greedy text of PyTorch', async () => {
    const prompt = golden.greedy.slice(0, golden.greedy_prompt_length);
    const { losses, gradients, generated } = await play({
      ...scenario(golden, samplesOf(tensor('input_ids'), tensor('labels')), looking),
      generate: { prompt, maxNewTokens: golden.greedy.length - prompt.length },
    });
    expect(losses).toHaveLength(1);
    expect(Math.abs(losses[0]! - golden.loss)).toBeLessThan(1e-5);
    expect(generated).toEqual(golden.greedy);
    expect(new Set(Object.keys(gradients[0]!))).toEqual(new Set(golden.parameters.keys()));
    for (const [key, gradient] of Object.entries(gradients[0]!)) {
      const expected = Float32Array.from(toNumbers(tensor(`grad.${key}`)));
      const difference = relativeDifference(
        withoutKeyBias(key, gradient),
        withoutKeyBias(key, expected),
      );
      expect(difference, key).toBeLessThan(1e-4);
    }
  });

  it('has the loss of PyTorch with padding on the left', async () => {
    const samples = samplesOf(tensor('input_ids'), tensor('labels'), tensor('attention_mask'));
    const { losses } = await play(scenario(golden, samples, looking));
    expect(Math.abs(losses[0]! - golden.masked_loss)).toBeLessThan(1e-5);
  });

  it('follows the loss curve of PyTorch over 20 AdamW steps, clipped and warmed up', async () => {
    const { lr, betas, eps, weight_decay, max_norm, warmup_steps } = golden.recipe;
    const samples = samplesOf(tensor('train.input_ids'), tensor('train.labels'));
    const { losses, gradientNorms } = await play(
      scenario(golden, samples, {
        gradient_clipping: max_norm,
        optimizer: { type: 'AdamW', params: { lr, betas, eps, weight_decay } },
        // lr · min(1, (n + 1) / warmup_steps) from n = 0 on: a rise from the first value, then flat
        // (the fall of a billion steps is below the rounding of lr).
        scheduler: {
          type: 'OneCycle',
          params: {
            cycle_min_lr: lr / warmup_steps,
            cycle_max_lr: lr,
            cycle_first_step_size: warmup_steps - 1,
            cycle_second_step_size: 1_000_000_000,
            cycle_momentum: false,
          },
        },
      }),
    );
    expect(losses).toHaveLength(20);
    for (const [step, expected] of golden.train_losses.entries()) {
      expect(Math.abs(losses[step]! / expected - 1), `loss ${step}`).toBeLessThan(1e-3);
      const norm = golden.train_gradient_norms[step]!;
      expect(Math.abs(gradientNorms[step]! / norm - 1), `norm ${step}`).toBeLessThan(1e-3);
    }
  });
});

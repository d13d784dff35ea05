import { describe, expect, it } from 'vitest';
import type { Tensor } from '../graph/ir.ts';
import { fromNumbers, toNumbers } from '../graph/tensor.ts';
import { relativeError } from '../graph/testing.ts';
import { type Golden, goldenCases, loadGolden } from './testing/goldens.ts';
import { PlanRunner } from './testing/run-plan.ts';
import { buildTrainingGraph } from './training-graph.ts';

/**
 * Gradients that are zero analytically and rounding noise numerically: a bias of the keys adds the same
 * number to all scores of a query. GPT-2 keeps it as the middle third of c_attn.bias; in Llama the
 * rotation makes it depend on the position, so nothing is excluded there.
 */
function withoutZeros(name: string, gradient: readonly number[]): readonly number[] {
  if (!name.endsWith('attn.c_attn.bias')) return gradient;
  const third = gradient.length / 3;
  return [...gradient.slice(0, third), ...gradient.slice(2 * third)];
}

const int64 = (tensor: Tensor, row?: number): Tensor => {
  const values = toNumbers(tensor);
  if (row === undefined) return fromNumbers('int64', tensor.dims, values);
  const dims = tensor.dims.slice(1);
  const size = values.length / tensor.dims[0]!;
  return fromNumbers('int64', dims, values.slice(row * size, (row + 1) * size));
};

function runnerFor(golden: Golden, fuse: boolean): PlanRunner {
  const [rows, length] = golden.tensors.get('input_ids')!.dims as [number, number];
  return new PlanRunner(buildTrainingGraph(golden.config), rows, length, fuse);
}

describe.each(goldenCases)('%s', (name) => {
  const golden = loadGolden(name);

  it.each([true, false])('has the gradients of PyTorch, every tensor (fused: %s)', async (fuse) => {
    const runner = runnerFor(golden, fuse);
    expect(runner.segments.map((segment) => segment.name)).toEqual([
      'embed',
      'layer.0',
      'layer.1',
      'head',
    ]);
    const { loss, gradients } = await runner.step(golden.parameters, {
      input_ids: int64(golden.tensors.get('input_ids')!),
      labels: int64(golden.tensors.get('labels')!),
    });
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
    for (const key of golden.parameters.keys()) {
      const expected = toNumbers(golden.tensors.get(`grad.${key}`)!);
      const error = relativeError(
        withoutZeros(key, gradients.get(key)!) as number[],
        withoutZeros(key, expected) as number[],
      );
      expect(error, key).toBeLessThan(1e-4);
    }
  });

  it('is built so that every fusion is found and all layers share a program', () => {
    const runner = runnerFor(golden, true);
    const fusions = runner.replaced.map((line) => line.replace(/^.*deepspeed\./, ''));
    expect(fusions.sort()).toEqual(
      golden.config.modelType === 'gpt2'
        ? [
            'Attention (packed, causal): 2',
            'Gelu: 2',
            'LayerNormalization: 5',
            'SoftmaxCrossEntropy: 1',
          ]
        : [
            'Attention (bshd, grouped heads, causal, rotary): 2',
            'RMSNormalization: 5',
            'RotaryEmbedding: 4',
            'SiluMul: 2',
            'SoftmaxCrossEntropy: 1',
          ],
    );
    const layers = runner.segments.filter((segment) => segment.name.startsWith('layer.'));
    // Attention divided by the layer's number makes GPT-2's layers differ in an attribute.
    const scaled = golden.config.modelType === 'gpt2' && golden.config.scaleByLayer;
    expect(new Set(layers.map((layer) => layer.program)).size).toBe(scaled ? layers.length : 1);
  });

  it.each([true, false])(
    'follows the loss curve of 20 AdamW steps with warm-up and clipping (fused: %s)',
    async (fuse) => {
      const runner = runnerFor(golden, fuse);
      const inputs = golden.tensors.get('train.input_ids')!;
      const labels = golden.tensors.get('train.labels')!;
      const weights = new Map(
        [...golden.parameters].map(([key, tensor]) => [key, Float64Array.from(toNumbers(tensor))]),
      );
      const adamw = new ReferenceAdamW(golden);
      for (const [step, expected] of golden.train_losses.entries()) {
        const parameters = new Map(
          [...weights].map(([key, values]) => [
            key,
            fromNumbers('float32', golden.parameters.get(key)!.dims, values),
          ]),
        );
        const batch = { input_ids: int64(inputs, step), labels: int64(labels, step) };
        const { loss, gradients } = await runner.step(parameters, batch);
        expect(Math.abs(loss - expected), `step ${step + 1}`).toBeLessThan(1e-3);
        const norm = Math.sqrt([...gradients.values()].flat().reduce((sum, g) => sum + g * g, 0));
        expect(norm / golden.train_gradient_norms[step]!).toBeCloseTo(1, 3);
        adamw.update(weights, gradients, norm);
      }
    },
  );
});

/** AdamW as the recipe in golden.json says, in float64. */
class ReferenceAdamW {
  private readonly golden: Golden;
  private readonly moments = new Map<string, [Float64Array, Float64Array]>();
  private steps = 0;

  constructor(golden: Golden) {
    this.golden = golden;
  }

  update(weights: Map<string, Float64Array>, gradients: Map<string, number[]>, norm: number): void {
    const { lr, betas, eps, weight_decay, max_norm, warmup_steps } = this.golden.recipe;
    const t = ++this.steps;
    const rate = lr * Math.min(1, t / warmup_steps);
    const clip = Math.min(1, max_norm / (norm + 1e-6));
    for (const [key, w] of weights) {
      const decay = this.golden.parameters.get(key)!.dims.length > 1 ? weight_decay : 0;
      const [m, v] = this.moments.get(key) ?? [
        new Float64Array(w.length),
        new Float64Array(w.length),
      ];
      this.moments.set(key, [m, v]);
      gradients.get(key)!.forEach((gradient, i) => {
        const g = gradient * clip;
        m[i] = betas[0] * m[i]! + (1 - betas[0]) * g;
        v[i] = betas[1] * v[i]! + (1 - betas[1]) * g * g;
        const mean = m[i]! / (1 - betas[0] ** t);
        const scale = Math.sqrt(v[i]! / (1 - betas[1] ** t)) + eps;
        w[i] = w[i]! * (1 - rate * decay) - (rate * mean) / scale;
      });
    }
  }
}

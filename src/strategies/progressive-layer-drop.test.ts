import { describe, expect, it } from 'vitest';
import { type Host, Lifecycle, type StepPlan } from '../hooks/index.ts';
import type { StrategyContext } from './plugin.ts';
import {
  applyLayerDrop,
  drawLayers,
  keepProbability,
  layerDropTheta,
} from './progressive-layer-drop.ts';

const published = { theta: 0.5, gamma: 0.001 };

describe('the schedule', () => {
  it('begins with every layer and falls to theta', () => {
    expect(layerDropTheta(0, published)).toBe(1);
    // DeepSpeed's own: (1 − 0.5)·e^(−0.001·t) + 0.5.
    expect(layerDropTheta(1000, published)).toBeCloseTo(0.683939720585721, 14);
    expect(layerDropTheta(1e6, published)).toBe(0.5);
    expect(layerDropTheta(12, { theta: 0.3, gamma: 0 })).toBe(1);
    expect(layerDropTheta(12, { theta: 1, gamma: 1 })).toBe(1);
  });

  it('falls with depth: the first layer is always kept, and of 24 layers 24% are dropped at 0.5', () => {
    expect(keepProbability(0, 24, 0.5)).toBe(1);
    expect(keepProbability(12, 24, 0.5)).toBe(0.75);
    const kept = Array.from({ length: 24 }, (_, layer) => keepProbability(layer, 24, 0.5));
    expect(kept.reduce((sum, p) => sum + p, 0) / 24).toBeCloseTo(0.76, 2);
  });
});

describe('the draw', () => {
  const options = { theta: 0.4, gamma: 0.01 };

  it('is a function of seed and step', () => {
    expect(drawLayers(700, 12, 5, options)).toEqual(drawLayers(700, 12, 5, options));
    const steps = (seed: number) =>
      Array.from({ length: 50 }, (_, i) => drawLayers(500 + i, 12, seed, options));
    expect(steps(5)).not.toEqual(steps(6));
    expect(new Set(steps(5).map(String)).size).toBeGreaterThan(20);
  });

  it('keeps each layer as often as the theory says, and makes up for it', () => {
    const layers = 8;
    const draws = 4000;
    // Far enough in that theta has arrived at its limit within one part in 10^8.
    const scales = Array.from({ length: draws }, (_, i) =>
      drawLayers(2000 + i, layers, 3, options),
    );
    for (let layer = 0; layer < layers; layer++) {
      const p = keepProbability(layer, layers, options.theta);
      const own = scales.map((draw) => draw[layer]!);
      const kept = own.filter((scale) => scale !== 0);
      const deviation = Math.sqrt(p * (1 - p) * draws);
      expect(Math.abs(kept.length - p * draws)).toBeLessThanOrEqual(4.5 * deviation);
      for (const scale of kept) expect(scale).toBeCloseTo(1 / p, 6);
      // E[s] = 1, to within the same 4.5 deviations.
      const mean = own.reduce((sum, scale) => sum + scale, 0) / draws;
      expect(Math.abs(mean - 1)).toBeLessThanOrEqual((4.5 * deviation) / draws / p + 1e-6);
    }
  });

  it('drops layers independently of each other', () => {
    const draws = Array.from({ length: 4000 }, (_, i) => drawLayers(2000 + i, 8, 9, options));
    const [p, q] = [keepProbability(6, 8, 0.4), keepProbability(7, 8, 0.4)];
    const both = draws.filter((draw) => draw[6] !== 0 && draw[7] !== 0).length;
    const deviation = Math.sqrt(4000 * p * q * (1 - p * q));
    expect(Math.abs(both - 4000 * p * q)).toBeLessThan(4.5 * deviation);
  });
});

describe('the plugin', () => {
  function applied(host: Partial<Host>) {
    const lifecycle = new Lifecycle();
    const whole = { name: 'test', segments: ['embed', 'layer.0', 'head'], ...host };
    applyLayerDrop({ host: whole, lifecycle, seed: 1 } as unknown as StrategyContext, {
      theta: 0.1,
      gamma: 10,
    });
    return lifecycle;
  }
  const plan: StepPlan = { training: true, step: 90, microBatch: 0, microBatches: 2 };
  const capabilities = new Set(['layerSkipping'] as const);

  it('scales the segments that can be left out, in training only and alike in every micro batch', () => {
    const lifecycle = applied({ capabilities, skippable: [1, 2, 5] });
    const scales = lifecycle.fire('planStep', plan).residualScales!;
    expect([...scales.keys()]).toEqual([1, 2, 5]);
    expect([...scales.values()]).toEqual(drawLayers(90, 3, 1, { theta: 0.1, gamma: 10 }));
    expect(lifecycle.fire('planStep', { ...plan, microBatch: 1 }).residualScales).toEqual(scales);
    const evaluation = { ...plan, training: false };
    expect(lifecycle.fire('planStep', evaluation)).toBe(evaluation);
  });

  it.each([
    ['a host without segments', { capabilities: new Set<never>() }],
    ['a model without layers', { capabilities, skippable: [] }],
  ])('refuses %s', (_, host) => {
    expect(() => applied(host)).toThrow(
      expect.objectContaining({
        code: 'HOST_LACKS_CAPABILITY',
        message: expect.stringContaining('progressive_layer_drop'),
      }),
    );
  });
});

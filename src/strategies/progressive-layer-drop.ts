/**
 * Progressive layer dropping (Zhang & He, "Accelerating Training of Transformer-Based Language Models with
 * Progressive Layer Dropping", 2010.13369): whole layers are left out of a step, more often as training goes
 * on and more often the deeper they lie.
 */
import { DeepSpeedError } from '../errors.ts';
import { requireCapability } from '../hooks/index.ts';
import { philox4x32 } from '../philox.ts';
import type { StrategyContext } from './plugin.ts';

export interface LayerDropOptions {
  /** Limit of the schedule, in (0, 1]. */
  theta: number;
  /** How fast it is approached, for each optimizer step. */
  gamma: number;
}

/** θ(t) = (1 − θ̄)·exp(−γ·t) + θ̄ (equation 6), t optimizer steps taken before. */
export function layerDropTheta(step: number, { theta, gamma }: LayerDropOptions): number {
  return (1 - theta) * Math.exp(-gamma * step) + theta;
}

/**
 * With which probability layer `layer` (from 0) of `layers` is kept: 1 − layer/layers · (1 − θ(t)), so that
 * the first always is.
 */
export function keepProbability(layer: number, layers: number, theta: number): number {
  return 1 - (layer / layers) * (1 - theta);
}

/**
 * One step's draw: for each layer 0 where it is dropped, else 1/p, which makes x + s·(F(x) − x) unbiased.
 * A function of seed and step alone, so all ranks, micro batches and resumed runs draw the same.
 */
export function drawLayers(
  step: number,
  layers: number,
  seed: number,
  options: LayerDropOptions,
): number[] {
  const theta = layerDropTheta(step, options);
  const bits = new Uint32Array(4);
  return Array.from({ length: layers }, (_, layer) => {
    const keep = keepProbability(layer, layers, theta);
    philox4x32(seed >>> 0, Math.floor(seed / 2 ** 32), [layer, step >>> 0, stream, 0], bits);
    return bits[0]! / 2 ** 32 < keep ? 1 / keep : 0;
  });
}

/** Tells these draws from others of the same seed: "drop" in ASCII. */
const stream = 0x64726f70;

/** Takes part in `planStep`: training steps get the scales of their layers. */
export function applyLayerDrop(context: StrategyContext, options: LayerDropOptions): void {
  const { host, lifecycle, seed } = context;
  requireCapability(host, 'layerSkipping', 'progressive_layer_drop');
  const skippable = host.skippable ?? [];
  if (skippable.length === 0) {
    throw new DeepSpeedError(
      'HOST_LACKS_CAPABILITY',
      `progressive_layer_drop: none of the model's segments (${host.segments.join(', ')}) is a layer that can be left out`,
      {
        fix: 'Switch it off, or use a model of repeated layers, each with weights of its own and one activation in and out of equal shape.',
        data: { key: 'progressive_layer_drop' },
      },
    );
  }
  lifecycle.tap('planStep', 'plan', 'layerDrop.draw', (plan) => {
    if (!plan.training) return plan;
    const scales = drawLayers(plan.step, skippable.length, seed, options);
    return {
      ...plan,
      residualScales: new Map(skippable.map((segment, i) => [segment, scales[i]!])),
    };
  });
}

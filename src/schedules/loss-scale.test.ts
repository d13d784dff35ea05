import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { LossScaler, type LossScaleOptions } from './index.ts';

interface Sequence {
  options: LossScaleOptions;
  overflows: (0 | 1)[];
  zero: (number | 'raised')[];
  stage0: number[];
}

const { sequences }: { sequences: Sequence[] } = JSON.parse(
  readFileSync(new URL('../../goldens/loss-scale.json', import.meta.url), 'utf8'),
);

/** Scales after each step; a run that ends says so, as the golden does. */
function follow(scaler: LossScaler, overflows: (0 | 1)[]): (number | 'raised')[] {
  const scales: (number | 'raised')[] = [];
  for (const overflow of overflows) {
    try {
      scaler.update(overflow === 1);
    } catch (error) {
      expect(error).toMatchObject({ code: 'LOSS_SCALE_AT_MINIMUM' });
      return [...scales, 'raised'];
    }
    scales.push(scaler.scale);
  }
  return scales;
}

describe('the loss scale follows DeepSpeed', () => {
  it('has goldens that reach every branch', () => {
    const scales = sequences.flatMap(({ zero }) => zero);
    expect(scales).toContain('raised');
    expect(sequences.some(({ zero, stage0 }) => zero[1] !== stage0[1])).toBe(true);
  });

  it.each(sequences)('under ZeRO: $options', ({ options, overflows, zero }) => {
    expect(follow(new LossScaler(options, 2), overflows)).toEqual(zero);
  });

  it.each(sequences)('without ZeRO: $options', ({ options, overflows, stage0 }) => {
    expect(follow(new LossScaler(options, 0), overflows)).toEqual(stage0);
  });

  it.each(sequences)('continues from a checkpoint: $options', ({ options, overflows, stage0 }) => {
    const first = new LossScaler(options, 0);
    follow(first, overflows.slice(0, 13));
    const state = JSON.parse(JSON.stringify(first));
    const second = new LossScaler(options, 0, state);
    expect(follow(second, overflows.slice(13))).toEqual(stage0.slice(13));
  });
});

it('never moves a fixed scale', () => {
  const scaler = new LossScaler({ ...sequences[0]!.options, loss_scale: 128 }, 1);
  follow(scaler, [1, 1, 0, 0, 0, 0, 1]);
  expect(scaler.scale).toBe(128);
});

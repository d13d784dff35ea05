import { describe, expect, it } from 'vitest';
import { parseModelConfig } from './config.ts';
import { initialValues, initializeParameters } from './init.ts';
import { normal, type ParameterSpec } from './parameters.ts';
import { philox4x32 } from '../philox.ts';

describe('philox4x32', () => {
  // Known answers of Random123 (kat_vectors): all zeros, all ones, digits of pi.
  it.each([
    [0, 0, [0, 0, 0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [
      0xffffffff,
      0xffffffff,
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    ],
    [
      0xa4093822,
      0x299f31d0,
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ] as const)('gives the published numbers for key %i', (key0, key1, counter, expected) => {
    const out = new Uint32Array(4);
    philox4x32(key0, key1, [...counter], out);
    expect(Array.from(out, (word) => word.toString(16).padStart(8, '0')).join(' ')).toBe(expected);
  });
});

describe('initialValues', () => {
  const spec: ParameterSpec = { name: 'w', shape: [50, 41], init: normal(0.02) };

  it('gives a shard what the whole has there, at any offset', () => {
    const whole = initialValues(spec, 7);
    for (const [start, count] of [
      [0, 1],
      [3, 6],
      [4, 4],
      [1021, 1029],
      [2049, 1],
      [17, 0],
    ] as const) {
      expect(initialValues(spec, 7, start, count)).toEqual(whole.slice(start, start + count));
    }
  });

  it('depends on the seed and on the name', () => {
    expect(initialValues(spec, 8)).not.toEqual(initialValues(spec, 7));
    expect(initialValues({ ...spec, name: 'v' }, 7)).not.toEqual(initialValues(spec, 7));
  });

  it('is normal: the first four moments and the share of each quantile', () => {
    const n = 200_000;
    const values = initialValues({ name: 'x', shape: [n], init: normal(1) }, 1);
    const moment = (power: number) => values.reduce((sum, v) => sum + v ** power, 0) / n;
    // Five standard errors of each sample moment of a standard normal.
    const error = 5 / Math.sqrt(n);
    expect(Math.abs(moment(1))).toBeLessThan(error);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(error * Math.sqrt(2));
    expect(Math.abs(moment(3))).toBeLessThan(error * Math.sqrt(15));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(error * Math.sqrt(96));
    const within = values.filter((v) => Math.abs(v) < 0.6744897501960817).length / n;
    expect(Math.abs(within - 0.5)).toBeLessThan(error / 2);
  });
});

it('initialises GPT-2 as its paper says', () => {
  const config = parseModelConfig({
    model_type: 'gpt2',
    n_layer: 8,
    n_embd: 64,
    n_head: 4,
    vocab_size: 500,
  });
  const parameters = initializeParameters(config);
  const values = (name: string) => {
    const { data } = parameters.get(name)!;
    return new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
  };
  const std = (name: string) => Math.hypot(...values(name)) / Math.sqrt(values(name).length);
  expect(std('transformer.wte.weight')).toBeCloseTo(0.02, 3);
  expect(std('transformer.h.3.mlp.c_fc.weight')).toBeCloseTo(0.02, 3);
  // 0.02 / √16
  expect(std('transformer.h.3.mlp.c_proj.weight')).toBeCloseTo(0.005, 3);
  expect(std('transformer.h.3.attn.c_proj.weight')).toBeCloseTo(0.005, 3);
  expect(values('transformer.ln_f.weight').every((v) => v === 1)).toBe(true);
  expect(values('transformer.h.0.attn.c_attn.bias').every((v) => v === 0)).toBe(true);
});

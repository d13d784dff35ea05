import { describe, expect, it } from 'vitest';
import type { DeepSpeedError } from '../errors.ts';
import { chooseStrategy } from './registry.ts';

function zeroOf(strategy: string, deepspeed?: Record<string, unknown>): unknown {
  const { raw } = chooseStrategy({ strategy, deepspeed, launcherConfig: null });
  return raw!.values.zero_optimization;
}

function refusal(strategy: string, deepspeed: Record<string, unknown>): DeepSpeedError {
  try {
    zeroOf(strategy, deepspeed);
  } catch (error) {
    return error as DeepSpeedError;
  }
  throw new Error('nothing was refused');
}

describe('names that fix a stage', () => {
  it.each([
    ['deepspeed_stage_1', { stage: 1 }],
    ['deepspeed_stage_2', { stage: 2 }],
    ['deepspeed_stage_2_offload', { stage: 2, offload_optimizer: { device: 'cpu' } }],
    ['deepspeed_stage_3', { stage: 3 }],
    [
      'deepspeed_stage_3_offload',
      { stage: 3, offload_optimizer: { device: 'cpu' }, offload_param: { device: 'cpu' } },
    ],
    [
      'deepspeed_stage_3_offload_nvme',
      { stage: 3, offload_optimizer: { device: 'nvme' }, offload_param: { device: 'nvme' } },
    ],
  ])('%s', (name, zero) => {
    expect(zeroOf(name)).toEqual(zero);
    expect(zeroOf(name, { zero_optimization: zero })).toEqual(zero);
  });

  it('keep what the config says besides', () => {
    const written = { reduce_bucket_size: 7, offload_optimizer: { buffer_count: 3 } };
    expect(zeroOf('deepspeed_stage_2_offload', { zero_optimization: written })).toEqual({
      reduce_bucket_size: 7,
      stage: 2,
      offload_optimizer: { buffer_count: 3, device: 'cpu' },
    });
  });

  it('refuse a config that means something else', () => {
    const zero = (section: object) => ({ zero_optimization: section });
    expect(refusal('deepspeed_stage_3', zero({ stage: 2 })).message).toContain('stage 2');
    const other = refusal('deepspeed_stage_3_offload', zero({ offload_param: { device: 'nvme' } }));
    expect(other.code).toBe('STRATEGY_CONFLICT');
    expect(other.message).toContain('means offload_param.device cpu');
    expect(other.message).toContain('zero_optimization.offload_param.device nvme');
  });
});

it('deepspeed without any config is stage 2; a config without a stage decides itself', () => {
  expect(zeroOf('deepspeed')).toEqual({ stage: 2 });
  expect(zeroOf('deepspeed', { train_batch_size: 2 })).toBeUndefined();
});

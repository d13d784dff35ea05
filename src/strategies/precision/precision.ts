import type { DeepSpeedConfig } from '../../config/index.ts';
import type { LossScaleOptions } from '../../schedules/index.ts';

export type StorageType = 'float32' | 'bfloat16' | 'float16';

/**
 * What numbers are stored and sent as; arithmetic is fp32 always. The model computes with parameters
 * rounded to `storage`, the optimizer with fp32 master weights.
 */
export interface Precision {
  readonly storage: StorageType;
  /** Gradients are rounded to it before they are summed over ranks. */
  readonly gradientType: StorageType;
  /** A step whose gradients are not finite is skipped; otherwise it ends training. */
  readonly skipsOverflow: boolean;
  /** fp16 only. */
  readonly lossScale: LossScaleOptions | null;
}

export const fullPrecision: Precision = {
  storage: 'float32',
  gradientType: 'float32',
  skipsOverflow: false,
  lossScale: null,
};

const storageTypes = { fp32: 'float32', bf16: 'bfloat16', fp16: 'float16' } as const;

/** What a config's `bf16`, `fp16` and `communication_data_type` come to on `worldSize` ranks. */
export function precisionOf(config: DeepSpeedConfig, worldSize: number): Precision {
  const { bf16, fp16, communication_data_type: wire } = config;
  const storage = bf16.enabled ? 'bfloat16' : fp16.enabled ? 'float16' : 'float32';
  // An fp32 rank alone sends nothing, so nothing is rounded for the wire.
  const named = wire === null || (worldSize === 1 && storage === 'float32') ? null : wire;
  return {
    storage,
    gradientType: named === null ? storage : storageTypes[named],
    skipsOverflow: fp16.enabled || (bf16.enabled && bf16.check_grad_overflow),
    lossScale: fp16.enabled ? fp16 : null,
  };
}

import type { DeepSpeedConfig } from '../../config/index.ts';

/**
 * Elements above which an embedding or a head is moved in tiles: where parameters come from disk, one that is
 * larger than what may be live at a time.
 */
export function tilingThreshold(config: DeepSpeedConfig | null): number {
  if (config?.zero_optimization.offload_param.device !== 'nvme') return Number.POSITIVE_INFINITY;
  return config.zero_optimization.stage3_max_live_parameters;
}

import type { DeepSpeedConfig } from '../../config/index.ts';
import type { FlatLayout } from '../../layout.ts';

/**
 * Elements above which an embedding or a head is moved in tiles: where parameters come from disk, one that is
 * larger than what may be live at a time.
 */
export function tilingThreshold(config: DeepSpeedConfig | null): number {
  if (config?.zero_optimization.offload_param.device !== 'nvme') return Number.POSITIVE_INFINITY;
  return config.zero_optimization.stage3_max_live_parameters;
}

/** A line of what is in tiles, and where two of them are more than may be live; null: nothing is. */
export function describeTiles({ tensors }: FlatLayout, threshold: number): string | null {
  const tiled = [...tensors].filter(([, slots]) => slots[0]!.part);
  if (tiled.length === 0) return null;
  const tables = tiled.map(([name, slots]) => {
    // The last tile may have fewer.
    const { shape, count } = slots[0]!;
    const more = 2 * count > threshold ? `, of which two are ${2 * count} elements` : '';
    return `${name} in ${slots.length} tiles of ${shape[0]} ${shape[0] === 1 ? 'row' : 'rows'}${more}`;
  });
  return `stage3_max_live_parameters ${threshold}: ${tables.join('; ')}`;
}

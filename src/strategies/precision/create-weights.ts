import type { ParameterOwner } from '../../hooks/index.ts';
import type { Shard } from '../../layout.ts';
import type { Region } from '../../native/index.ts';
import { inMemory } from '../held.ts';
import { gatherShards } from '../zero/gather.ts';
import { SixteenBitWeights } from './sixteen-bit-weights.ts';
import type { MemoryWeights, WeightsOptions } from './weights.ts';

/** @returns and who owns the parameters, where that is not the session's one fp32 buffer */
export function createWeights(options: WeightsOptions): {
  weights: MemoryWeights;
  parameters?: ParameterOwner;
} {
  if (options.storage === 'float32') return { weights: fullWeights(options) };
  const weights = new SixteenBitWeights(options, options.storage);
  return { weights, parameters: weights };
}

/** fp32: the optimizer works in the model's own memory. */
function fullWeights({
  engine,
  layout,
  parameters,
  updated,
  gatherSize,
  worldSize,
}: WeightsOptions): MemoryWeights {
  const region = (range: Shard): Region => ({
    buffer: parameters,
    byteOffset: range.offset * 4,
    count: range.count,
    dtype: 'float32',
  });
  const whole = { offset: 0, count: layout.total };
  return {
    master: region(updated),
    stored: [inMemory(parameters, whole)],
    publish: (work) =>
      gatherSize === null || worldSize === 1
        ? work
        : gatherShards(engine, layout, region(whole), gatherSize, work),
    adopt: () => null,
    restore: () => null,
  };
}

import { alignUp } from '../../layout.ts';
import type { ZeroBytes } from '../zero/stage.ts';
import { type OffloadSettings, swapUnit } from './settings.ts';

/**
 * What of ZeRO's bytes stays in memory, and `io`: the buffers through which the rest comes and goes.
 *
 * @param bytes of a rank without offloading
 * @param elements of its shard
 * @param wholeGradients they wait for the boundary in memory
 */
export function offloadedBytes(
  bytes: ZeroBytes,
  elements: number,
  { optimizer, parameters, subGroupSize }: OffloadSettings,
  wholeGradients: boolean,
): ZeroBytes {
  const keptStates = optimizer ? 1 - optimizer.ratio : 1;
  const keptParameters = parameters ? Math.min(1, parameters.maxInMemory / elements) : 1;
  const swapsGradients = keptStates < 1 && !wholeGradients;
  const kept = {
    ...bytes,
    gradients: swapsGradients ? 0 : bytes.gradients,
    optimizer: bytes.optimizer * keptStates,
    master: bytes.master * keptStates,
    parameters: bytes.parameters * keptParameters,
  };
  // Bytes an element of each kind of tensor that has a part on disk; states have 4 each.
  const perElement = [
    ...(keptStates < 1 ? Array(bytes.optimizer / (4 * elements)).fill(4) : []),
    ...(keptStates < 1 && bytes.master > 0 ? [4] : []),
    ...(swapsGradients ? [4] : []),
    ...(keptParameters < 1 ? [bytes.master > 0 ? 2 : 4] : []),
  ];
  const length = alignUp(Math.min(Math.max(1, subGroupSize), elements), swapUnit);
  const most = optimizer ? Math.floor(optimizer.bufferCount / Math.max(1, perElement.length)) : 2;
  const slots = Math.min(most, Math.ceil(elements / length));
  return { ...kept, io: slots * length * perElement.reduce((sum, one) => sum + one, 0) };
}

import type { Emitter } from '../emitter.ts';

/** Zeros of `shape` with slice t of `values` added at position `indices[t]` of the first axis. */
export function scatterRows(
  emit: Emitter,
  values: string,
  indices: string,
  shape: readonly number[],
): string {
  const type = { dtype: emit.dtype(values), shape };
  const column = emit.reshape(indices, [emit.shape(indices)[0]!, 1]);
  const inputs = [emit.zeros(type.dtype, shape), column, values];
  return emit.one('ScatterND', inputs, type, { reduction: 'add' });
}

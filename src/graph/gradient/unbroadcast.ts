import type { Emitter } from '../emitter.ts';

/**
 * Sums a gradient over the axes along which a value of `shape` was stretched, so that it has that shape
 * again. Every rule relies on this; none does it alone.
 */
export function unbroadcast(emit: Emitter, gradient: string, shape: readonly number[]): string {
  const from = emit.shape(gradient);
  const extra = from.length - shape.length;
  const leading = Array.from({ length: extra }, (_, i) => i);
  const stretched = shape.flatMap((dim, i) =>
    dim === 1 && from[extra + i] !== 1 ? [extra + i] : [],
  );
  // One reduction over both kinds of axis; the reshape that follows is free.
  return emit.reshape(emit.sum(gradient, [...leading, ...stretched]), shape);
}

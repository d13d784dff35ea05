import { type HostContext, sliceRows } from './context.ts';
import type { Core, RandomFunction } from './library.ts';
import type { Rows } from './rows.ts';

/**
 * Makes random layers give each row the numbers that it would get in the whole batch: every rank draws
 * them all, from the shared stream, and keeps its own rows. `tfjs-layers` reaches these operations through
 * the exports of the core, so that replacing them there is enough. A layer with a seed is always drawn so,
 * since its seed fixes the whole batch's mask.
 */
export function patchRandomOperations(context: HostContext, core: Core): void {
  const { dropout, randomNormal, randomUniform } = core;
  const exports = core as { -readonly [K in keyof Core]: Core[K] };

  const wholeBatch = (original: RandomFunction): RandomFunction => {
    return (shape, a, b, dtype, seed) => {
      const rows = exactRows(context, shape, seed);
      if (!rows) return original(shape, a, b, dtype, seed);
      return core.tidy(() =>
        sliceRows(core, original([rows.total, ...shape.slice(1)], a, b, dtype, seed), rows),
      );
    };
  };
  exports.randomNormal = wholeBatch(randomNormal);
  exports.randomUniform = wholeBatch(randomUniform);

  exports.dropout = (x, rate, noiseShape, seed) => {
    const shape = noiseShape ? noiseShape.map((size, axis) => size ?? x.shape[axis]!) : x.shape;
    const rows = exactRows(context, shape, seed);
    if (!rows || rate === 0) return dropout(x, rate, noiseShape, seed);
    // The formula of tf.dropout, bit for bit.
    return core.tidy(() => {
      const keep = 1 - rate;
      const all = [rows.total, ...shape.slice(1)];
      const uniform = sliceRows(core, randomUniform(all, 0, 1, 'float32', seed), rows);
      return core.mul(x, core.div(core.floor(core.add(uniform, keep)), keep));
    });
  };
}

/** The rows to keep of a draw that runs along the batch; null where nothing is to be done. */
function exactRows(context: HostContext, shape: number[], seed: number | undefined): Rows | null {
  const { pass } = context;
  if (!pass || !(pass.exact || seed)) return null;
  const { rows } = pass;
  return shape[0] === rows.count && rows.count < rows.total ? rows : null;
}

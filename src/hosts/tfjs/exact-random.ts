import { type HostContext, sliceRows } from './context.ts';
import type { Core } from './library.ts';
import type { Rows } from './rows.ts';

/**
 * Makes random layers give each row the numbers that it would get in the whole batch: every rank draws
 * them all, from the shared stream, and keeps its own rows. `tfjs-layers` and scripts reach these operations
 * through the exports of the core, so that replacing them there is enough. A layer with a seed is always drawn so,
 * since its seed fixes the whole batch's mask.
 */
export function patchRandomOperations(context: HostContext, core: Core): void {
  const { dropout, randomUniform } = core;
  const exports = core as { -readonly [K in keyof Core]: Core[K] };
  for (const [name, seedAt] of Object.entries(seedPlaces) as [keyof typeof seedPlaces, number][]) {
    const original = core[name];
    exports[name] = (shape, ...rest) => {
      const rows = exactRows(context, shape, rest[seedAt - 1]);
      if (!rows) return original(shape, ...rest);
      return core.tidy(() =>
        sliceRows(core, original([rows.total, ...shape.slice(1)], ...rest), rows),
      );
    };
  }

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

/** Operations that draw a tensor of a given shape, and which argument is their seed. */
const seedPlaces = {
  randomGamma: 4,
  randomNormal: 4,
  randomStandardNormal: 2,
  randomUniform: 4,
  randomUniformInt: 3,
  truncatedNormal: 4,
} as const;

/** The rows to keep of a draw that runs along the batch; null where nothing is to be done. */
function exactRows(context: HostContext, shape: number[], seed: unknown): Rows | null {
  const { pass } = context;
  if (!pass || !(pass.exact || seed)) return null;
  const { rows } = pass;
  return shape[0] === rows.count && rows.count < rows.total ? rows : null;
}

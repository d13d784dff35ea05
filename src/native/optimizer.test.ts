import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { NativeBuffer, OptimizerHyper, OptimizerKind, Region } from './contract.ts';
import { loadAddon } from './load.ts';

interface Goldens {
  torch: string;
  steps: number;
  cases: { kind: OptimizerKind; hyper: OptimizerHyper; weights: number[] }[];
}
const goldens = JSON.parse(
  readFileSync(new URL('../../goldens/optimizers.json', import.meta.url), 'utf8'),
) as Goldens;

/** The rule of goldens/make_optimizers.py; BigInt because the product exceeds 2^53. */
const value = (k: number): number =>
  Number((BigInt(k) * 1103515245n + 12345n) % 65536n) / 32768 - 1;

const addon = loadAddon();
const communicator = addon.createCommunicator({ backend: 'solo' });
const engine = addon.createEngine({ communicator, threads: 2 });
afterAll(() => engine.dispose());

function floats(count: number): { region: Region; array: Float32Array; buffer: NativeBuffer } {
  const buffer = engine.allocate(4 * count, { category: 'optimizer' });
  const region: Region = { buffer, byteOffset: 0, count, dtype: 'float32' };
  return { region, array: new Float32Array(buffer.view()), buffer };
}

describe(`optimizers against PyTorch ${goldens.torch}`, () => {
  for (const [index, { kind, hyper, weights }] of goldens.cases.entries()) {
    it(`${kind} (case ${index})`, () => {
      const count = weights.length;
      const [master, gradient, state1, state2] = [0, 1, 2, 3].map(() => floats(count)) as [
        ReturnType<typeof floats>,
        ReturnType<typeof floats>,
        ReturnType<typeof floats>,
        ReturnType<typeof floats>,
      ];
      master.array.forEach((_, i) => {
        master.array[i] = value(i);
      });
      for (let step = 1; step <= goldens.steps; step++) {
        gradient.array.forEach((_, i) => {
          gradient.array[i] = value(1000 * step + i);
        });
        const work = engine.optimizerStep({
          kind,
          step,
          master: master.region,
          gradient: gradient.region,
          state1: state1.region,
          state2: state2.region,
          ranges: [{ offset: 0, count, group: 0 }],
          groups: [hyper],
          gradientScale: 1,
          maxNorm: 0,
        });
        engine.waitSync(work);
      }
      // Both sides are fp32 and round a few times a step, relative to weights of up to 2: 2⁻²⁴ each.
      const tolerance = goldens.steps * 8 * 2 * 2 ** -24;
      for (const [i, want] of weights.entries()) {
        expect(Math.abs(master.array[i]! - want), `weight ${i}`).toBeLessThan(tolerance);
      }
    });
  }
});

import type { NativeEngine, Region } from '../../native/contract.ts';

/** A copy of a region as fp32, for looking: blocks the JS thread. */
export function floatsOf(engine: NativeEngine, region: Region): Float32Array {
  const { buffer, byteOffset, count, dtype } = region;
  if (dtype === 'float32') return new Float32Array(buffer.view(), byteOffset, count).slice();
  const staging = engine.allocate(Math.max(count * 4, 64), {
    category: 'window',
    name: 'one parameter',
  });
  try {
    const target = { buffer: staging, byteOffset: 0, count, dtype: 'float32' } as const;
    engine.waitSync(engine.copy(region, target));
    return new Float32Array(staging.view(), 0, count).slice();
  } finally {
    staging.dispose();
  }
}

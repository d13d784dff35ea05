/**
 * allreduce.ts: answers `shared BYTES` or `private BYTES` with the seconds of one all-reduce of fp32
 * zeros, the mean of as many as make one answer worth its clock.
 */
import type { NativeBuffer } from '../../src/native/index.ts';
import { openRuntime } from '../../src/runtime.ts';
import { timed } from '../lib.ts';
import { serve } from './serve.ts';

/** Up to here the waiting caller does it inline; larger ones go through the comm queue. */
const inlineBytes = 64 << 10;

const runtime = openRuntime();
const { engine, communicator } = runtime;
const buffers = new Map<string, NativeBuffer>();

function bufferOf(place: string, bytes: number): NativeBuffer {
  const key = `${place} ${bytes}`;
  const known = buffers.get(key);
  if (known) return known;
  for (const [old, buffer] of buffers) {
    buffer.dispose();
    buffers.delete(old);
  }
  const shared = place === 'shared';
  const buffer = engine.allocate(bytes, { category: 'gradients', shared });
  const region = { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
  engine.waitSync(engine.fill(region, 0));
  buffers.set(key, buffer);
  return buffer;
}

await serve(communicator, async (request) => {
  const [place, size] = request.split(' ') as [string, string];
  const bytes = Number(size);
  const buffer = bufferOf(place, bytes);
  const region = { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
  const array = new Float32Array(buffer.view());
  const once =
    bytes <= inlineBytes
      ? () => communicator.allReduce(array)
      : () => engine.waitSync(engine.allReduce(region));
  const calls = Math.max(1, Math.min(2000, Math.floor((64 << 20) / bytes)));
  communicator.barrier();
  const seconds = await timed(() => {
    for (let call = 0; call < calls; call += 1) once();
  });
  return String(seconds / calls);
});
runtime.close();

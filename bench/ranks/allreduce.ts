/**
 * allreduce.ts: answers `shared BYTES` or `private BYTES` with the seconds of one all-reduce of fp32
 * zeros, the mean of as many as make one answer worth its clock, after two that are not measured: they
 * map the peer's pages, which a training run does once, and fill the caches that other peers emptied.
 */
import type { NativeBuffer } from '../../src/native/index.ts';
import { openRuntime } from '../../src/runtime.ts';
import { timed } from '../lib.ts';
import { serve } from './serve.ts';

/** Up to here the waiting caller does it inline; larger ones go through the comm queue. */
const inlineBytes = 64 << 10;

const runtime = openRuntime();
const { engine, communicator } = runtime;
/** The buffers of one size, by place: both places are asked for in turn. */
const buffers = new Map<string, NativeBuffer>();

function bufferOf(place: string, bytes: number): NativeBuffer {
  const known = buffers.get(place);
  if (known?.bytes === bytes) return known;
  for (const [old, buffer] of buffers) {
    if (buffer.bytes === bytes) continue;
    buffer.dispose();
    buffers.delete(old);
  }
  const shared = place === 'shared';
  const buffer = engine.allocate(bytes, { category: 'gradients', shared });
  const region = { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
  engine.waitSync(engine.fill(region, 0));
  buffers.set(place, buffer);
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
  const calls = Math.max(2, Math.min(2000, Math.floor((128 << 20) / bytes)));
  once();
  once();
  const seconds = await timed(() => {
    for (let call = 0; call < calls; call += 1) once();
  });
  return String(seconds / calls);
});
runtime.close();

/**
 * mpi-allreduce.ts LANES SIZES...: as peers/mpi_allreduce.cc, through the engine and in shared memory, as gradients
 * are. LANES ranks of each machine send; 0: as many as it finds to be faster, in the calls that are not timed.
 */
import { loadAddon, requireMpiModule } from '../../src/native/index.ts';
import { timed } from '../lib.ts';

/** Up to here the waiting caller does it inline, as in bench/ranks/allreduce.ts. */
const inlineBytes = 64 << 10;

const [lanes, ...sizes] = process.argv.slice(2).map(Number);
const communicator = loadAddon().createCommunicator({
  backend: 'mpi',
  module: requireMpiModule(),
  identity: 'bench',
  ...(lanes! > 0 && { lanes: lanes! }),
});
const engine = loadAddon().createEngine({ communicator, threads: 1 });
for (const bytes of sizes) {
  const buffer = engine.allocate(bytes, { category: 'gradients', shared: true });
  const region = { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
  const array = new Float32Array(buffer.view());
  const once =
    bytes <= inlineBytes
      ? () => communicator.allReduce(array)
      : () => engine.waitSync(engine.allReduce(region));
  const calls = Math.max(2, Math.min(2000, Math.floor((64 << 20) / bytes)));
  for (let call = 0; call < (lanes === 0 ? 10 : 2); call += 1) once();
  communicator.barrier();
  const seconds = await timed(() => {
    for (let call = 0; call < calls; call += 1) once();
  });
  if (communicator.rank === 0) console.log(String(seconds / calls));
  buffer.dispose();
}
engine.dispose();
communicator.dispose();

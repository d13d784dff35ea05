/**
 * All-reduce of fp32 over two ranks, 4 KiB to 256 MiB: seconds and GB/s (array bytes over time) against
 * gloo (through PyTorch), Open MPI and a kernel that reads and writes the same memory. The arrays lie in
 * shared memory, as gradients do; private memory, which is staged, is measured once.
 */
import {
  type Bench,
  type BenchOptions,
  compile,
  limitPeer,
  measure,
  Peer,
  pythonPeer,
  type Report,
  rankPeer,
} from './lib.ts';

const kib = 1 << 10;
const mib = 1 << 20;
const sizes = [4 * kib, 64 * kib, mib, 16 * mib, 64 * mib, 256 * mib];
const large = 64 * mib;

function sizeName(bytes: number): string {
  return bytes < mib ? `${bytes / kib} KiB` : `${bytes / mib} MiB`;
}

async function openMpi({ log }: BenchOptions): Promise<Peer | null> {
  let program: string;
  try {
    program = compile('mpicxx', 'peers/allreduce_mpi.cc');
  } catch (error) {
    log(`open mpi: not available here (${(error as Error).message.split('\n')[0]})`);
    return null;
  }
  const args = ['--allow-run-as-root', '--bind-to', 'none', '-np', '2', program];
  return Peer.start('open mpi', 'mpirun', args, log);
}

async function run(options: BenchOptions): Promise<Report> {
  const ours = await rankPeer('deepspeed-js', 'allreduce.ts', { worldSize: 2, args: [] }, options);
  const limit = await limitPeer('limit', 'allreduce.cc', [], options);
  const gloo = await pythonPeer('gloo', 'allreduce_gloo.py', [], options);
  const mpi = await openMpi(options);
  const peers = [ours, limit, gloo, mpi].filter((peer): peer is Peer => peer !== null);

  const figures: Report['figures'] = {};
  /** Seconds by subject and size. */
  const seconds = new Map<string, number>();
  for (const bytes of sizes.filter((size) => sizeName(size).includes(options.only))) {
    const subjects = peers.map((peer) => ({
      name: peer.name,
      run: () => peer.run(`shared ${bytes}`),
    }));
    if (bytes === large)
      subjects.push({ name: 'private memory', run: () => ours.run(`private ${bytes}`) });
    for (const [name, time] of await measure(subjects, { warmup: 2, rounds: 11 })) {
      const figure = `${sizeName(bytes)}: ${name}`;
      seconds.set(`${name} ${bytes}`, time.median);
      figures[`${figure} µs`] = time.median * 1e6;
      figures[`${figure} fastest µs`] = time.min * 1e6;
      figures[`${figure} GB/s`] = bytes / time.median / 1e9;
      figures[`${figure} spread`] = time.spread;
      options.log(
        `${figure} ${(time.median * 1e6).toFixed(1)} µs, ${(bytes / time.median / 1e9).toFixed(2)} GB/s`,
      );
    }
  }
  await Promise.all(peers.map((peer) => peer.stop()));

  const times = (name: string, bytes: number): number | null => {
    const [theirs, own] = [seconds.get(`${name} ${bytes}`), seconds.get(`deepspeed-js ${bytes}`)];
    return theirs === undefined || own === undefined ? null : theirs / own;
  };
  return {
    figures,
    aims: [
      { name: '64 MiB: times gloo', value: times('gloo', large), op: '>=', aim: 6 },
      { name: '64 MiB: times Open MPI', value: times('open mpi', large), op: '>=', aim: 3 },
      { name: '64 MiB: share of the limit', value: times('limit', large), op: '>=', aim: 0.8 },
      { name: '4 KiB: times Open MPI', value: times('open mpi', 4 * kib), op: '>=', aim: 1 },
    ],
  };
}

export default {
  about: 'all-reduce at two ranks against gloo, Open MPI and the same memory traffic',
  run,
} satisfies Bench;

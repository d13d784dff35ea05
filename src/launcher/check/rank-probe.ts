/** The script of a probe among ranks: `rank-probe.ts PLAN`; rank 0 prints an empty line when all are there, then the readings. */
import { loadAddon, requireMpiModule } from '../../native/index.ts';
import { getRunEnvironment } from '../run-environment.ts';
import type { ProbePlan, Reading } from './probes.ts';
import { shareOf, verifySum } from './sum.ts';

const LEAST_MS = 40;
const LEAST_ROUNDS = 3;
const MOST_ROUNDS = 50;

const plan = JSON.parse(process.argv[2]!) as ProbePlan;
const { rank, worldSize, memory, hangTimeoutMs, threads, version } = getRunEnvironment()!;
const communicator = loadAddon().createCommunicator(
  memory !== null
    ? { backend: 'shm', rank, worldSize, ...memory, hangTimeoutMs }
    : { backend: 'mpi', module: requireMpiModule(), identity: version, hangTimeoutMs },
);
const engine = loadAddon().createEngine({ communicator, threads });
// Everybody is there: the time for the measurement begins.
communicator.allReduce(Int32Array.of(1));
if (rank === 0) process.stdout.write('\n');
const readings: Reading[] = [];
for (const bytes of plan.sizes) {
  // As gradients lie: in memory that all ranks see.
  const buffer = engine.allocate(bytes, { category: 'communication', shared: true });
  const region = { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
  const once = (): number => {
    const start = performance.now();
    engine.waitSync(engine.allReduce(region));
    return performance.now() - start;
  };
  const values = new Float32Array(buffer.view());
  values.fill(shareOf(rank));
  const cold = once();
  verifySum(values, worldSize);
  values.fill(0);
  const first = Math.max(cold, once());
  // All do as many: rank 0 says how many.
  const rounds = Int32Array.of(
    rank === 0 ? Math.min(MOST_ROUNDS, Math.max(LEAST_ROUNDS, Math.ceil(LEAST_MS / first))) : 0,
  );
  communicator.allReduce(rounds);
  const fastest = Math.min(...Array.from({ length: rounds[0]! }, once));
  const slowest = Float64Array.of(fastest);
  communicator.allReduce(slowest, 'max');
  buffer.dispose();
  readings.push({ bytes, seconds: slowest[0]! / 1000 });
  if (slowest[0]! > plan.enoughMs) break;
}
if (rank === 0) process.stdout.write(`${JSON.stringify(readings)}\n`);
engine.dispose();
communicator.leave('the probe is over');
communicator.dispose();

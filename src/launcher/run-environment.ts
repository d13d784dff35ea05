/**
 * What a rank knows of the run it belongs to. It travels once, from the launcher to the preload, in
 * one private environment variable, and lives from then on in a store that only the main thread of
 * that one process has: a child process, fork or worker of the user's script never becomes a rank.
 */
import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { DeepSpeedError } from '../errors.ts';
import { mpiPlace } from './hosts/mpi-place.ts';
import { packageVersion } from './package-version.ts';

/** What the launcher tells a rank about the run. */
export interface RunEnvironment {
  /** Version of the deepspeed-js whose launcher started the run. */
  version: string;
  rank: number;
  worldSize: number;
  /** Among the ranks of this machine. */
  localRank: number;
  localSize: number;
  /** Shared memory of the run, as inherited file descriptors; null where MPI started the ranks. */
  memory: { controlFd: number; arenaFds: number[] } | null;
  /** Milliseconds a peer may be alive but absent from a collective. */
  hangTimeoutMs: number;
  /** The launcher's `--deepspeed FILE` as an absolute path (base64 as it is), or null. */
  deepspeedConfig: string | null;
  /** The cores that this rank is bound to, or null. */
  cores: number[] | null;
  /** Threads for compute: this rank's share of the cores. */
  threads: number;
  /** Of what ranks draw alike: `Math.random` under the TensorFlow.js host. */
  seed: number;
}

/** The same, plus what only the preload needs. */
export interface PrivateRunEnvironment extends RunEnvironment {
  memory: { controlFd: number; arenaFds: number[] };
  launcherPid: number;
  /** The socket to the launcher. */
  channelFd: number;
}

/** Patience with a rank that is alive but absent, unless the launcher says otherwise. */
export const DEFAULT_HANG_TIMEOUT_MS = 30 * 60 * 1000;

/** Carries a `PrivateRunEnvironment` as JSON; gone before user code runs. */
export const PRIVATE_VARIABLE = 'DEEPSPEED_JS_RUN';
/** Stays: tells a rank's children that RANK and WORLD_SIZE in their environment are not about them. */
export const RANK_PID_VARIABLE = 'DEEPSPEED_JS_RANK_PID';

/** How often `--max_restarts` has started this run anew; absent the first time. */
export const RESTART_VARIABLE = 'DEEPSPEED_JS_RESTART';

// A registered symbol: the preload and the user's script may load two copies of this module.
const storeKey = Symbol.for('deepspeed-js.run');
type Store = { [storeKey]?: RunEnvironment };

/** Preload only: keeps the environment of this process's run. */
export function storeRunEnvironment(environment: RunEnvironment): void {
  Object.defineProperty(globalThis, storeKey, { value: Object.freeze(environment) });
}

/**
 * The run that the launcher made this process a rank of, or null for a process on its own: no
 * launcher, a worker, or a child process of a rank.
 *
 * @throws DeepSpeedError LAUNCHER_REQUIRED when RANK and WORLD_SIZE were set by hand, since ranks
 * meet in memory that only the launcher can create; VERSION_MISMATCH when the launcher belongs to
 * another version than this module.
 */
export function getRunEnvironment(): RunEnvironment | null {
  const environment = (globalThis as Store)[storeKey] ?? startedByMpi();
  if (environment === null) {
    refuseRanksByHand();
    return null;
  }
  if (environment.version !== packageVersion)
    throw new DeepSpeedError(
      'VERSION_MISMATCH',
      `the launcher is deepspeed-js ${environment.version}, the script imports deepspeed-js ${packageVersion}`,
      { data: { launcher: environment.version, library: packageVersion } },
    );
  return environment;
}

/** A script that mpirun or srun started itself, without our launcher. Its children are no ranks. */
function startedByMpi(): RunEnvironment | null {
  const place = mpiPlace(process.env);
  const childOfRank = process.env[RANK_PID_VARIABLE] !== undefined || !isMainThread;
  if (place === null || place.worldSize === 1 || childOfRank) return null;
  process.env[RANK_PID_VARIABLE] = String(process.pid);
  // Alike on all ranks, and another in the next job.
  const { PMIX_NAMESPACE, SLURM_JOB_ID, SLURM_STEP_ID } = process.env;
  const job = `${PMIX_NAMESPACE} ${SLURM_JOB_ID} ${SLURM_STEP_ID}`;
  const environment: RunEnvironment = {
    version: packageVersion,
    ...place,
    memory: null,
    hangTimeoutMs: DEFAULT_HANG_TIMEOUT_MS,
    deepspeedConfig: null,
    cores: null,
    threads: Math.max(1, Math.floor(availableParallelism() / place.localSize)),
    seed: createHash('sha256').update(job).digest().readUInt32LE(0),
  };
  storeRunEnvironment(environment);
  return environment;
}

function refuseRanksByHand(): void {
  const { RANK: rank, WORLD_SIZE: worldSize } = process.env;
  const childOfRank = process.env[RANK_PID_VARIABLE] !== undefined || !isMainThread;
  if (childOfRank || rank === undefined || !(Number(worldSize) > 1)) return;
  throw new DeepSpeedError(
    'LAUNCHER_REQUIRED',
    `RANK=${rank} and WORLD_SIZE=${worldSize} are set, but this process was not started by the deepspeed-js launcher`,
    {
      fix: `Start all ranks with one command: npx deepspeed-js --num_procs ${worldSize} SCRIPT; or unset RANK and WORLD_SIZE to train in one process.`,
      data: { rank, worldSize },
    },
  );
}

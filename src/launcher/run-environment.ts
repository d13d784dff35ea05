/**
 * What a rank knows of the run it belongs to. It travels once, from the launcher to the preload, in
 * one private environment variable, and lives from then on in a store that only the main thread of
 * that one process has: a child process, fork or worker of the user's script never becomes a rank.
 */
import { isMainThread } from 'node:worker_threads';
import { DeepSpeedError } from '../errors.ts';
import { packageVersion } from './package-version.ts';

/** What the launcher tells a rank about the run. */
export interface RunEnvironment {
  /** Version of the deepspeed-js whose launcher started the run. */
  version: string;
  rank: number;
  worldSize: number;
  /** One machine: equal to `rank` and `worldSize`. */
  localRank: number;
  localSize: number;
  /** Shared memory of the run, as inherited file descriptors. */
  controlFd: number;
  arenaFds: number[];
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
  launcherPid: number;
  /** The socket to the launcher. */
  channelFd: number;
}

/** Carries a `PrivateRunEnvironment` as JSON; gone before user code runs. */
export const PRIVATE_VARIABLE = 'DEEPSPEED_JS_RUN';
/** Stays: tells a rank's children that RANK and WORLD_SIZE in their environment are not about them. */
export const RANK_PID_VARIABLE = 'DEEPSPEED_JS_RANK_PID';

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
  const environment = (globalThis as Store)[storeKey];
  if (environment === undefined) {
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

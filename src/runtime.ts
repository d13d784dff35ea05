import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { DeepSpeedError } from './errors.ts';
import { getRunEnvironment, type RunEnvironment } from './launcher/run-environment.ts';
import {
  type CommOptions,
  loadAddon,
  type NativeAddon,
  type NativeCommunicator,
  type NativeEngine,
  requireMpiModule,
} from './native/index.ts';

/** The engine of this process and its place among the ranks. */
export interface Runtime {
  readonly addon: NativeAddon;
  readonly engine: NativeEngine;
  readonly communicator: NativeCommunicator;
  readonly rank: number;
  readonly worldSize: number;
  /** All ranks are on one machine, and may read each other's parameters where they lie. */
  readonly sharesMemory: boolean;
  /** Null outside the launcher. */
  readonly run: RunEnvironment | null;
  readonly threads: number;
  /** Ends the engine. Peers that still wait for this rank get `reason`. */
  close(reason?: string): void;
}

export interface RuntimeOptions {
  /** ONNX Runtime's library, for hosts that run graphs. */
  ortLibrary?: string;
  /** Tests: a world of threads instead of the launcher's processes. */
  world?: { key: string; rank: number; worldSize: number; hangTimeoutMs?: number };
  /** Tests and benches: nothing is read where another rank has it, as between machines. */
  apart?: boolean;
  /** Compute threads; default: this rank's share of the cores. */
  threads?: number;
}

/** Joins the run that the launcher started, or stands alone. */
export function openRuntime(options: RuntimeOptions = {}): Runtime {
  const addon = loadAddon();
  const run = options.world ? null : getRunEnvironment();
  const communicator = addon.createCommunicator(
    options.world
      ? { backend: 'inprocess', ...options.world }
      : run
        ? communicatorOf(run)
        : { backend: 'solo' },
  );
  const threads = options.threads ?? run?.threads ?? Math.max(1, addon.systemLimits().cores);
  const engine = addon.createEngine({
    communicator,
    threads,
    ...(options.ortLibrary !== undefined && { ortLibrary: options.ortLibrary }),
  });
  return {
    addon,
    engine,
    communicator,
    rank: communicator.rank,
    worldSize: communicator.size,
    sharesMemory: communicator.sharesMemory && !options.apart,
    run,
    threads,
    close(reason = 'training ended') {
      communicator.leave(reason);
      engine.dispose();
      communicator.dispose();
    },
  };
}

function communicatorOf(run: RunEnvironment): CommOptions {
  const { rank, worldSize, memory, hangTimeoutMs } = run;
  if (memory !== null) return { backend: 'shm', rank, worldSize, ...memory, hangTimeoutMs };
  return {
    backend: 'mpi',
    module: requireMpiModule(),
    identity: identityOf(run),
    hangTimeoutMs,
  };
}

/**
 * Throws where the ranks were joined by something else than `comm_backend` of the config asks for.
 *
 * @throws DeepSpeedError MPI_NOT_BUILT, COMM_BACKEND_CONFLICT
 */
export function requireCommBackend(
  { run }: Pick<Runtime, 'run'>,
  asked: 'shm' | 'mpi' | null,
): void {
  // Also one process on its own learns here that its config needs more than is installed.
  if (asked === 'mpi') requireMpiModule();
  if (run === null || asked === null) return;
  if (asked === 'mpi' && run.memory !== null)
    throw new DeepSpeedError(
      'COMM_BACKEND_CONFLICT',
      'comm_backend is "mpi", and the launcher, which did not know, joined the ranks by shared memory',
      {
        fix: 'Give the config to the launcher (--deepspeed FILE), or say --force_multi; or start the script by mpirun.',
      },
    );
  if (asked === 'shm' && run.localSize < run.worldSize)
    throw new DeepSpeedError(
      'COMM_BACKEND_CONFLICT',
      'comm_backend is "shm", and the ranks are on several machines, which share no memory',
      { fix: 'Leave comm_backend out: ranks of one machine share memory anyway.' },
    );
}

/** What hosts that train together must have alike. */
function identityOf({ version, deepspeedConfig }: RunEnvironment): string {
  const parts = [`deepspeed-js ${version}`, `Node ${process.versions.node.split('.')[0]}`];
  if (deepspeedConfig !== null && existsSync(deepspeedConfig)) {
    const digest = createHash('sha256').update(readFileSync(deepspeedConfig)).digest('hex');
    parts.push(`${deepspeedConfig} (SHA-256 ${digest.slice(0, 12)})`);
  }
  return parts.join(', ');
}

/**
 * Throws before memory is taken, when this rank's share of the machine cannot hold it.
 *
 * @param key the config key or argument that would lower the need
 */
export function requireMemory(runtime: Runtime, bytes: number, what: string, key: string): void {
  const { memoryAvailable } = runtime.addon.systemLimits();
  const ranks = runtime.run?.localSize ?? runtime.worldSize;
  const share = memoryAvailable / ranks;
  if (bytes <= share) return;
  throw new DeepSpeedError(
    'OUT_OF_MEMORY',
    `${what} need ${gibibytes(bytes)} on each of ${ranks} rank${ranks === 1 ? '' : 's'}; ` +
      `${gibibytes(memoryAvailable)} are free, ${gibibytes(share)} a rank`,
    {
      fix: `Lower it with ${key}, use fewer ranks, or a machine (or container limit) with more memory.`,
    },
  );
}

export function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

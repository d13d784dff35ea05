/** What the launcher of several machines tells all ranks alike, and how a process becomes one of them. */
import { hostname } from 'node:os';
import { DeepSpeedError } from '../../errors.ts';
import type { NativeAddon } from '../../native/contract.ts';
import { reportUncaught } from '../channel.ts';
import { bindingPlan } from '../cores.ts';
import { packageVersion } from '../package-version.ts';
import type { RunEnvironment } from '../run-environment.ts';
import type { ChosenHost } from './filter.ts';
import type { Hello } from './hub.ts';
import { mpiPlace } from './mpi-place.ts';

/** Carries a `HostsRun` as JSON; gone before user code runs. */
export const HOSTS_VARIABLE = 'DEEPSPEED_JS_HOSTS_RUN';

export interface HostsRun {
  version: string;
  /** In the order of their ranks. `slots` are those used, `room` all that the hostfile gives. */
  hosts: (ChosenHost & { room: number })[];
  launcher: { address: string; port: number; token: string };
  masterPort: number;
  hangTimeoutMs: number;
  linkTimeoutMs: number;
  deepspeedConfig: string | null;
  bindCoresToRank: boolean;
  bindCoreList: string | null;
  seed: number;
}

/**
 * Makes this process the rank that MPI's starter says it is: link to the launcher, cores, environment.
 *
 * @throws DeepSpeedError LAUNCHER_REQUIRED when none of the known starters did; NativeError LAUNCHER_GONE.
 */
export function joinHosts(run: HostsRun, addon: NativeAddon): RunEnvironment {
  const place = mpiPlace(process.env);
  if (place === null)
    throw new DeepSpeedError(
      'LAUNCHER_REQUIRED',
      'this process was started without a rank: the starter is none of mpirun, mpiexec and srun',
    );
  const { rank, worldSize } = place;
  const seats = run.hosts.flatMap((host, crossRank) =>
    host.slots.map((slot, localRank) => ({ host, crossRank, slot, localRank })),
  );
  const seat = seats[rank];
  if (seat === undefined || seats.length !== worldSize)
    throw new DeepSpeedError(
      'LAUNCHER_REQUIRED',
      `this is rank ${rank} of ${worldSize}, and the launcher asked for ${seats.length} ranks`,
      { fix: 'Leave the number of ranks out of --launcher_args; slots and filters decide it.' },
    );
  // MPICH's starter sends it to all ranks when one has ended; Node would open its debugger.
  process.on('SIGUSR1', () => {});
  const { address, port, token } = run.launcher;
  const hello: Hello = {
    token,
    rank,
    pid: process.pid,
    host: hostname(),
    version: packageVersion,
  };
  addon.openLink({ address, port, hello: JSON.stringify(hello), patienceMs: run.linkTimeoutMs });
  reportUncaught((error) => addon.tellLauncher(JSON.stringify({ error })));
  const localSize = seat.host.slots.length;
  const cores = run.bindCoresToRank
    ? bindingPlan(seat.host.room, run.bindCoreList)[seat.slot]!
    : null;
  if (cores !== null) addon.bindCores(cores);
  Object.assign(process.env, {
    RANK: String(rank),
    LOCAL_RANK: String(seat.localRank),
    WORLD_SIZE: String(worldSize),
    LOCAL_SIZE: String(localSize),
    CROSS_RANK: String(seat.crossRank),
    CROSS_SIZE: String(run.hosts.length),
    MASTER_ADDR: address,
    MASTER_PORT: String(run.masterPort),
  });
  return {
    version: run.version,
    rank,
    worldSize,
    localRank: seat.localRank,
    localSize,
    memory: null,
    hangTimeoutMs: run.hangTimeoutMs,
    deepspeedConfig: run.deepspeedConfig,
    cores,
    threads: cores?.length ?? Math.max(1, Math.floor(addon.systemLimits().cores / localSize)),
    seed: run.seed,
  };
}

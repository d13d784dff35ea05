/** From the flags of `deepspeed` to the machines of the run. */
import { readConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import {
  chooseHosts,
  forwardedVariables,
  type HostsPlan,
  isThisMachine,
  launcherKind,
  readHostfile,
  usableCores,
} from '../launcher/index.ts';

/** As commander collects them; names are those of the flags. */
export interface MachineFlags {
  hostfile?: string;
  include?: string;
  exclude?: string;
  num_nodes?: number;
  launcher: string;
  launcher_args?: string;
  ssh_port?: number;
  force_multi?: boolean;
  master_addr?: string;
  link_timeout: number;
  numProcs: number | null;
  /** A path, or base64; `comm_backend` in it counts. */
  deepspeedConfig?: string | null;
}

/**
 * As in DeepSpeed, a hostfile from which one machine is chosen, this one, is no run over several; without any
 * hostfile this machine is the only one.
 *
 * @returns `slotsHere`: ranks on this machine as the hostfile has them, where it decides that
 * @throws DeepSpeedError LAUNCHER_USAGE, HOSTFILE_INVALID, NOT_AVAILABLE_YET
 */
export function chooseMachines(flags: MachineFlags): {
  hosts: HostsPlan | null;
  slotsHere: number | null;
} {
  const kind = launcherKind(flags.launcher);
  const file = readHostfile(flags.hostfile ?? null);
  const forced = flags.force_multi || asksForMpi(flags.deepspeedConfig ?? null);
  if (file === null) {
    for (const name of ['include', 'exclude', 'launcher_args', 'ssh_port', 'master_addr'] as const)
      if (flags[name] !== undefined)
        throw new DeepSpeedError('LAUNCHER_USAGE', `--${name} needs a hostfile`, {
          fix: 'Name it with --hostfile FILE.',
        });
    if (flags.num_nodes !== undefined && flags.num_nodes !== 1)
      throw new DeepSpeedError(
        'LAUNCHER_USAGE',
        `--num_nodes ${flags.num_nodes} needs a hostfile that names the machines`,
        { fix: 'Name it with --hostfile FILE.' },
      );
    if (!forced) return { hosts: null, slotsHere: null };
  }
  const hosts = file ?? [{ name: 'localhost', slots: flags.numProcs ?? usableCores() }];
  const chosen = chooseHosts(hosts, {
    include: flags.include ?? null,
    exclude: flags.exclude ?? null,
    numNodes: flags.num_nodes ?? null,
    numProcs: flags.numProcs,
  });
  const [only] = chosen;
  if (chosen.length === 1 && isThisMachine(only!.name) && !forced)
    return { hosts: null, slotsHere: only!.slots.length };
  const room = new Map(hosts.map(({ name, slots }) => [name, slots]));
  return {
    slotsHere: null,
    hosts: {
      hosts: chosen.map(({ name, slots }) => ({ name, slots, room: room.get(name)! })),
      kind,
      extra: [
        ...sshWords(kind, flags.ssh_port),
        ...(flags.launcher_args ?? '').split(/\s+/).filter((word) => word !== ''),
      ],
      masterAddress: flags.master_addr ?? null,
      linkTimeoutMs: flags.link_timeout * 1000,
      variables: forwardedVariables(process.env),
    },
  };
}

/** Whether `comm_backend` of the config says so. What is wrong with a config is told at the start of the run. */
function asksForMpi(config: string | null): boolean {
  if (config === null) return false;
  try {
    return readConfig(config).values.comm_backend === 'mpi';
  } catch (error) {
    if (error instanceof DeepSpeedError) return false;
    throw error;
  }
}

function sshWords(kind: HostsPlan['kind'], port: number | undefined): string[] {
  if (port === undefined) return [];
  if (kind === 'openmpi') return ['--mca', 'plm_rsh_args', `-p ${port}`];
  throw new DeepSpeedError('LAUNCHER_USAGE', `--ssh_port does not go with --launcher ${kind}`, {
    fix: 'Set the port in ~/.ssh/config.',
  });
}

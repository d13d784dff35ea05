/**
 * The command lines of mpirun (Open MPI), mpiexec (MPICH's Hydra) and srun (Slurm) that start the ranks of
 * a run. Values of variables travel in the command's own environment; its words only name them.
 *
 * Each is told to leave the other ranks alone when one ends badly: the launcher names the rank and ends
 * the run itself.
 */
import { DeepSpeedError } from '../../errors.ts';
import type { ChosenHost } from './filter.ts';

/** Values of `--launcher`. */
export type LauncherKind = 'openmpi' | 'mpich' | 'slurm';

/** What is to be started, and where. */
export interface Job {
  /** In the order of their ranks: all slots of the first host come first. */
  hosts: readonly ChosenHost[];
  /** The program that every rank runs, and its arguments. */
  argv: readonly string[];
  /** Names of the variables that every rank gets. */
  variables: readonly string[];
  workingFolder: string;
  /** The words of `--launcher_args`. */
  extra: readonly string[];
  /** Whether the user is root, whom Open MPI turns away unless told. */
  asRoot: boolean;
}

export interface CommandLine {
  program: string;
  words: string[];
  /** Beside the variables of the job. */
  environment: Record<string, string>;
}

/** Flags of `--launcher` in DeepSpeed that start ranks with other tools. */
const OTHERS = ['pdsh', 'impi', 'mvapich'];
const KINDS = ['openmpi', 'mpich', 'slurm'] as const;

/** @throws DeepSpeedError LAUNCHER_USAGE, or NOT_AVAILABLE_YET for one that DeepSpeed has. */
export function launcherKind(name: string): LauncherKind {
  const kind = KINDS.find((known) => known === name.toLowerCase());
  if (kind !== undefined) return kind;
  const known = OTHERS.includes(name.toLowerCase());
  throw new DeepSpeedError(
    known ? 'NOT_AVAILABLE_YET' : 'LAUNCHER_USAGE',
    known ? `--launcher ${name} is not available yet` : `--launcher got "${name}"`,
    { fix: `Use one of ${KINDS.join(', ')}.`, data: { flag: '--launcher' } },
  );
}

export function commandLine(kind: LauncherKind, job: Job): CommandLine {
  if (kind === 'openmpi') return openMpi(job);
  return kind === 'mpich' ? mpich(job) : slurm(job);
}

function openMpi({ hosts, argv, variables, workingFolder, extra, asRoot }: Job): CommandLine {
  return {
    program: 'mpirun',
    words: [
      ...['-n', String(rankCount(hosts)), '--host', hostList(hosts)],
      ...['--map-by', 'slot', '--bind-to', 'none', '--wdir', workingFolder, '--tag-output'],
      ...['--mca', 'orte_enable_recovery', '1', '--mca', 'orte_abort_on_non_zero_status', '0'],
      // A rank that ends by its own error does not stay for MPI_Finalize.
      ...['--mca', 'orte_allowed_exit_without_sync', '1'],
      ...variables.flatMap((name) => ['-x', name]),
      ...extra,
      ...argv,
    ],
    environment: asRoot ? { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' } : {},
  };
}

function mpich({ hosts, argv, variables, workingFolder, extra }: Job): CommandLine {
  return {
    program: 'mpiexec',
    words: [
      ...['-n', String(rankCount(hosts)), '-hosts', hostList(hosts)],
      ...['-bind-to', 'none', '-wdir', workingFolder, '-prepend-rank', '-disable-auto-cleanup'],
      ...(variables.length > 0 ? ['-genvlist', variables.join(',')] : []),
      ...extra,
      ...argv,
    ],
    environment: {},
  };
}

function slurm({ hosts, argv, workingFolder, extra }: Job): CommandLine {
  const each = hosts[0]!.slots.length;
  const other = hosts.find(({ slots }) => slots.length !== each);
  if (other !== undefined)
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `--launcher slurm starts equally many ranks on every host; ${hosts[0]!.name} has ${each}, ${other.name} has ${other.slots.length}`,
      { fix: 'Make the slots equal, with the hostfile, --include, --exclude or --num_procs.' },
    );
  return {
    program: 'srun',
    words: [
      ...[`--nodes=${hosts.length}`, `--ntasks=${rankCount(hosts)}`, `--ntasks-per-node=${each}`],
      ...[`--nodelist=${hosts.map(({ name }) => name).join(',')}`, `--chdir=${workingFolder}`],
      ...['--distribution=block', '--cpu-bind=none', '--label', '--unbuffered', '--export=ALL'],
      ...['--kill-on-bad-exit=0', '--wait=0'],
      // Open MPI meets the others through PMIx only; a cluster's default may well be another, or none.
      ...(process.env.SLURM_MPI_TYPE === undefined ? ['--mpi=pmix'] : []),
      ...extra,
      ...argv,
    ],
    environment: {},
  };
}

export function rankCount(hosts: readonly ChosenHost[]): number {
  return hosts.reduce((sum, { slots }) => sum + slots.length, 0);
}

function hostList(hosts: readonly ChosenHost[]): string {
  return hosts.map(({ name, slots }) => `${name}:${slots.length}`).join(',');
}

/** What the tools put before each line of a rank: `[1,2]<stdout>:`, `[2] ` and `2: `. */
const LABELS: Record<LauncherKind, RegExp> = {
  openmpi: /^\[\d+,(\d+)\]<(?:stdout|stderr)>: ?/,
  mpich: /^\[(\d+)\] /,
  slurm: /^ *(\d+): /,
};

/** The rank that wrote a line, and the line itself; the tool's own lines have rank null. */
export function unlabel(kind: LauncherKind, line: string): { rank: number | null; text: string } {
  const match = LABELS[kind].exec(line);
  if (!match) return { rank: null, text: line };
  return { rank: Number(match[1]), text: line.slice(match[0].length) };
}

/** `deepspeed-js check`: whether machines and links are fit for training, and which are not. */
import { constants as access, accessSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { constants as system } from 'node:os';
import { dirname, extname } from 'node:path';
import { Command, CommanderError } from 'commander';
import { DeepSpeedError } from '../errors.ts';
import {
  check as checkGroup,
  type CheckReport,
  HostProbes,
  packageVersion,
  type Probes,
  RankProbes,
  requireTools,
  usableCores,
} from '../launcher/index.ts';
import { integer, parsed } from './arguments.ts';
import { checkPng, checkSvg } from './check-picture.ts';
import { checkLines } from './check-text.ts';
import { chooseMachines } from './machines.ts';

interface Flags {
  hostfile?: string;
  include?: string;
  exclude?: string;
  num_nodes?: number;
  num_procs?: number;
  launcher: string;
  launcher_args?: string;
  ssh_port?: number;
  link_timeout: number;
  probe_timeout: number;
  expect?: number;
  least_share: number;
  all_pairs?: boolean;
  mpi?: boolean;
  out?: string;
  json?: boolean;
}

const bytesPerGigabit = 1e9 / 8;
const stopSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Prints what it finds, and draws it where `--out` says.
 *
 * @returns 0 when everything is sound, else 1
 * @throws DeepSpeedError LAUNCHER_USAGE, HOSTFILE_INVALID, OUTPUT_NOT_WRITABLE
 */
export async function check(argv: string[]): Promise<number> {
  const flags = parseFlags(argv);
  if (flags === null) return 0;
  const draw = pictureOf(flags.out);
  const say = (text: string) => {
    if (!flags.json) process.stderr.write(`check: ${text}\n`);
  };
  if (flags.out !== undefined) requireFolder(flags.out);
  // What it has started ends with this process.
  const stop = (signal: NodeJS.Signals) => process.exit(128 + system.signals[signal]);
  for (const signal of stopSignals) process.on(signal, stop);
  let probes: Probes | null = null;
  let report: CheckReport;
  try {
    probes = await openProbes(flags, say);
    report = await checkGroup(probes, {
      expected: flags.expect === undefined ? null : flags.expect * bytesPerGigabit,
      leastShare: flags.least_share,
      allPairs: flags.all_pairs ?? false,
      asRun: flags.mpi ?? false,
      say,
    });
  } finally {
    await probes?.close();
    for (const signal of stopSignals) process.off(signal, stop);
  }
  const lines = flags.json ? [JSON.stringify(report)] : checkLines(report);
  process.stdout.write(`${lines.join('\n')}\n`);
  if (flags.out !== undefined && draw !== null) {
    await write(flags.out, draw(report));
    if (!flags.json) process.stdout.write(`wrote ${flags.out}\n`);
  }
  return report.healthy ? 0 : 1;
}

async function openProbes(flags: Flags, say: (text: string) => void): Promise<Probes> {
  const probeMs = flags.probe_timeout * 1000;
  const { hosts: plan, slotsHere } = chooseMachines({
    ...flags,
    numProcs: flags.num_procs ?? null,
  });
  const words = (flags.launcher_args ?? '').split(/\s+/).filter(Boolean);
  if (words.length > 0 && plan?.kind !== 'slurm')
    throw new DeepSpeedError('LAUNCHER_USAGE', '--launcher_args are words for srun here', {
      fix: 'The check reaches machines by ssh itself; its settings belong into ~/.ssh/config.',
    });
  if (plan === null && flags.mpi)
    throw new DeepSpeedError('LAUNCHER_USAGE', '--mpi needs several machines', {
      fix: 'Name them with --hostfile FILE; ranks of one machine share memory.',
    });
  if (plan === null) {
    const cores = usableCores();
    const ranks = slotsHere ?? flags.num_procs ?? cores;
    if (ranks < 2) throw alone('1 rank on this machine');
    const probes = new RankProbes(ranks, probeMs);
    say(`${ranks} ranks on this machine`);
    if (probes.sharesCores)
      say(
        `warning: ${ranks} ranks share ${cores} ${cores === 1 ? 'core' : 'cores'} and wait for each other: no link is called slow for it`,
      );
    return probes;
  }
  if (plan.hosts.length < 2) throw alone('1 machine');
  say(`${plan.hosts.length} machines`);
  const port = flags.ssh_port === undefined ? [] : ['-p', String(flags.ssh_port)];
  if (flags.mpi) requireTools(plan);
  return HostProbes.open({ plan, extra: [...port, ...words], probeMs });
}

function alone(what: string): DeepSpeedError {
  return new DeepSpeedError(
    'LAUNCHER_USAGE',
    `${what}: nothing to check, an all-reduce takes two`,
    {
      fix: 'Check several ranks here with --num_procs, or several machines with --hostfile.',
    },
  );
}

function parseFlags(argv: string[]): Flags | null {
  const command = new Command('deepspeed-js check')
    .description(
      'Measures all-reduce between machines (or ranks of this one) and finds who makes it slow.',
    )
    .option('-H, --hostfile <file>', 'several machines, a line HOST slots=N for each')
    .option('-i, --include <nodes>', 'only these of the hostfile, like worker-0@worker-1')
    .option('-e, --exclude <nodes>', 'all but these')
    .option('--num_nodes <n>', 'the first so many machines', integer('--num_nodes', 1))
    .option(
      '--num_procs <n>',
      'ranks on this machine (default: its cores)',
      integer('--num_procs', 1),
    )
    .option('--launcher <kind>', 'openmpi and mpich: reached by ssh; slurm: by srun', 'openmpi')
    .option('--launcher_args <args>', 'words for srun')
    .option('--ssh_port <port>', 'of the other machines', integer('--ssh_port', 1, 65_535))
    .option(
      '--link_timeout <seconds>',
      'silence after which a machine counts as lost',
      integer('--link_timeout', 1),
      30,
    )
    .option(
      '--probe_timeout <seconds>',
      'time limit of one measurement',
      integer('--probe_timeout', 1),
      10,
    )
    .option(
      '--expect <Gbit/s>',
      'what a machine should send (default: found out from pairs)',
      positive('--expect', Number.MAX_VALUE),
    )
    .option(
      '--least_share <share>',
      'below this share of it something is slow',
      positive('--least_share', 1),
      0.5,
    )
    .option('--all_pairs', 'measure every pair (done anyway for up to 8)')
    .option('--mpi', 'measure also as a run does: all slots, started by mpirun or srun')
    .option('--out <file>', 'draw the pairs: a .png or .svg file')
    .option('--json', 'print one line of JSON; rates in bytes a second')
    .version(packageVersion, '-v, --version');
  if (!parsed(command, argv, 'deepspeed-js check')) return null;
  return command.opts<Flags>();
}

/** A parser of numbers above 0 for commander. */
function positive(flag: string, most: number) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && value > 0 && value <= most) return value;
    const range = most === Number.MAX_VALUE ? 'above 0' : `above 0, at most ${most}`;
    throw new CommanderError(2, 'value', `${flag} got "${text}", expected a number ${range}`);
  };
}

function pictureOf(out: string | undefined): ((report: CheckReport) => string | Buffer) | null {
  if (out === undefined) return null;
  const draw = { '.png': checkPng, '.svg': checkSvg }[extname(out).toLowerCase()];
  if (draw !== undefined) return draw;
  throw new DeepSpeedError('LAUNCHER_USAGE', `--out got "${out}", expected a .png or .svg file`, {
    fix: '`deepspeed-js check --help` lists the flags.',
  });
}

/** Before anything is measured. */
function requireFolder(path: string): void {
  try {
    accessSync(dirname(path), access.W_OK);
  } catch (cause) {
    throw notWritable(path, cause as Error);
  }
}

async function write(path: string, drawing: string | Buffer): Promise<void> {
  await writeFile(path, drawing).catch((cause: Error) => {
    throw notWritable(path, cause);
  });
}

function notWritable(path: string, cause: Error): DeepSpeedError {
  return new DeepSpeedError('OUTPUT_NOT_WRITABLE', `${path} cannot be written: ${cause.message}`, {
    cause,
    data: { path },
  });
}

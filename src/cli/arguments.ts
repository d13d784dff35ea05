/** The command line of `deepspeed`: our flags, then the script, then everything for the script. */
import { Command, CommanderError, Option } from 'commander';
import { DeepSpeedError } from '../errors.ts';
import { packageVersion } from '../launcher/index.ts';
import type { LaunchOptions } from '../launcher/index.ts';
import { chooseMachines } from './machines.ts';

export interface ParsedLine {
  options: LaunchOptions;
  /** Remarks on what was read in another way than it was written. */
  notes: string[];
}

/** Flags of DeepSpeed's launcher for what one machine does not have; refused by name. */
const laterFlags: [flags: string, needs: string][] = [
  ['--node_rank <n>', 'starting each machine by hand'],
  ['--no_ssh', 'starting each machine by hand'],
  ['--elastic_training', 'elastic training'],
  ['--min_elastic_nodes <n>', 'elastic training'],
  ['--max_elastic_nodes <n>', 'elastic training'],
  ['--autotuning <mode>', 'autotuning'],
  ['--save_pid', 'a file of process ids'],
];

const helpText = `
After the script, --deepspeed FILE and --deepspeed_config FILE are taken as well, as DeepSpeed's users
write them; everything after -- goes to the script untouched.

deepspeed-js check   measures machines and links, and finds those that are slow or lost
deepspeed-js report   shows the environment and explains a config (the same as ds_report)
deepspeed-js layout   shows and draws which blocks of attention a config computes
deepspeed-js estimate   says what a rank would hold at each ZeRO stage, and draws it
deepspeed-js zero_to_fp32   writes a checkpoint's weights as model.safetensors

Examples:
  deepspeed --num_procs 2 --deepspeed ds_config.json train.ts --epochs 3
  deepspeed --num_procs 4 --bind_cores_to_rank --enable_each_rank_log logs train.js`;

/** What commander collects; names are those of the flags. */
interface Flags {
  num_procs?: number;
  num_gpus?: number;
  oversubscribe?: boolean;
  num_nodes?: number;
  deepspeed?: string;
  deepspeed_config?: string;
  bind_cores_to_rank?: boolean;
  bind_core_list?: string;
  module?: boolean;
  enable_each_rank_log?: string;
  master_port?: number;
  hostfile?: string;
  include?: string;
  exclude?: string;
  launcher: string;
  launcher_args?: string;
  ssh_port?: number;
  force_multi?: boolean;
  master_addr?: string;
  max_restarts: number;
  link_timeout: number;
  hang_timeout: number;
  grace_period: number;
  quiet?: boolean;
}

/**
 * @param argv without node and the name of the program.
 * @returns null when the line only asked for help or the version, which have been printed.
 * @throws DeepSpeedError LAUNCHER_USAGE, NOT_AVAILABLE_YET.
 */
export function parseLine(argv: readonly string[]): ParsedLine | null {
  const command = describeCommand();
  if (!parsed(command, argv, 'deepspeed')) return null;
  const flags = command.opts<Flags>();
  const [script, ...rest] = command.args as [string, ...string[]];
  const shielded = argv[argv.length - command.args.length - 1] === '--';
  const after = shielded ? { config: null, scriptArguments: rest } : takeConfig(rest);

  const notes: string[] = [];
  if (flags.num_gpus !== undefined)
    notes.push(`ranks run on cores: --num_gpus ${flags.num_gpus} is read as --num_procs`);
  if (flags.bind_core_list !== undefined && !flags.bind_cores_to_rank)
    throw new DeepSpeedError('LAUNCHER_USAGE', '--bind_core_list needs --bind_cores_to_rank');

  const numProcs = oneOf('--num_procs', flags.num_procs, '--num_gpus', flags.num_gpus);
  const deepspeedConfig = oneOf(
    '--deepspeed before the script',
    oneOf('--deepspeed', flags.deepspeed, '--deepspeed_config', flags.deepspeed_config),
    '--deepspeed after it',
    after.config,
  );
  const { hosts, slotsHere } = chooseMachines({ ...flags, numProcs, deepspeedConfig });
  return {
    notes,
    options: {
      script,
      module: flags.module ?? false,
      scriptArguments: after.scriptArguments,
      numProcs: slotsHere ?? numProcs,
      oversubscribe: flags.oversubscribe ?? false,
      hosts,
      maxRestarts: flags.max_restarts,
      deepspeedConfig,
      bindCoresToRank: flags.bind_cores_to_rank ?? false,
      bindCoreList: flags.bind_core_list ?? null,
      rankLogFolder: flags.enable_each_rank_log ?? null,
      masterPort: flags.master_port ?? null,
      hangTimeoutMs: flags.hang_timeout * 1000,
      gracePeriodMs: flags.grace_period * 1000,
      quiet: flags.quiet ?? false,
    },
  };
}

function describeCommand(): Command {
  const command = new Command('deepspeed')
    .description(
      'Trains with several ranks, one process each: on this machine, or with a hostfile on several.',
    )
    .usage('[flags] script [arguments of the script]')
    .argument('<script>', '.js, .mjs, .cjs, .ts, .mts or .cts file')
    .argument('[arguments...]', 'passed to the script on every rank')
    .option(
      '--num_procs <n>',
      'ranks (default: the cores that this process may use)',
      integer('--num_procs', 1),
    )
    .option('--oversubscribe', 'allow more than 32 ranks for each core')
    .option('--deepspeed <file>', 'DeepSpeed config that the trainer uses')
    .option('--deepspeed_config <file>', 'the same')
    .option('--bind_cores_to_rank', 'give each rank cores of its own')
    .option('--bind_core_list <list>', 'the cores to share out, like 0-3,8')
    .option('--module', 'script is a package, resolved as import would')
    .option('--enable_each_rank_log <folder>', 'write rank_<r>.stdout and rank_<r>.stderr there')
    .option(
      '--master_port <port>',
      'MASTER_PORT of the ranks (default: a free one)',
      integer('--master_port', 1, 65_535),
    )
    .option(
      '--hang_timeout <seconds>',
      'patience with a rank that is alive but absent',
      integer('--hang_timeout', 1),
      1800,
    )
    .option(
      '--grace_period <seconds>',
      'between asking ranks to end and killing them',
      integer('--grace_period', 0),
      5,
    )
    .option('-H, --hostfile <file>', 'several machines, a line HOST slots=N for each')
    .option('-i, --include <nodes>', 'only these of the hostfile, like worker-0@worker-1:0,2')
    .option('-e, --exclude <nodes>', 'all but these')
    .option('--num_nodes <n>', 'the first so many machines', integer('--num_nodes', 1))
    .option('--launcher <kind>', 'what starts ranks elsewhere: openmpi, mpich or slurm', 'openmpi')
    .option('--launcher_args <args>', 'words for it')
    .option('--ssh_port <port>', 'of the other machines', integer('--ssh_port', 1, 65_535))
    .option('--force_multi', 'start by it even when this machine is the only one')
    .option('--master_addr <address>', 'by which the others reach this machine')
    .option(
      '--max_restarts <n>',
      'start a failed run anew so often, without machines that were lost',
      integer('--max_restarts', 0),
      0,
    )
    .option(
      '--link_timeout <seconds>',
      'silence after which a machine counts as cut off',
      integer('--link_timeout', 1),
      30,
    )
    .option('-q, --quiet', 'no notes and warnings of the launcher')
    .option(
      '--num_gpus <n>',
      'the name that DeepSpeed has for --num_procs',
      integer('--num_gpus', 1),
    )
    // Nothing is checked by ssh ahead of the start.
    .addOption(new Option('--no_ssh_check').hideHelp())
    // Ranks get LOCAL_RANK by environment only, which is what this flag asks for.
    .addOption(new Option('--no_local_rank').hideHelp())
    .addOption(new Option('--no_python').hideHelp())
    .version(packageVersion, '-v, --version')
    .addHelpText('after', helpText)
    .passThroughOptions();
  for (const [flags, needs] of laterFlags) {
    const option = new Option(flags).hideHelp();
    command.addOption(option).on(`option:${option.name()}`, () => refuse(option.long!, needs));
  }
  command.on('option:no_python', () => {
    throw new DeepSpeedError('LAUNCHER_USAGE', '--no_python: every rank is a Node process', {
      fix: 'Name a JavaScript or TypeScript file.',
    });
  });
  return command;
}

function refuse(flag: string, needs: string): never {
  throw new DeepSpeedError('NOT_AVAILABLE_YET', `${flag} (${needs}) is not available yet`, {
    fix: `Leave ${flag} out; one machine runs as many ranks as --num_procs says.`,
    data: { flag },
  });
}

/** A parser of whole numbers for commander; what it refuses `parsed` tells with the help of its command. */
export function integer(flag: string, least: number, most = Number.MAX_SAFE_INTEGER) {
  return (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    const range =
      most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new CommanderError(2, 'value', `${flag} got "${text}", expected a whole number ${range}`);
  };
}

/** The value of two flags that mean the same. */
function oneOf<T>(
  nameA: string,
  a: T | null | undefined,
  nameB: string,
  b: T | null | undefined,
): T | null {
  if (a != null && b != null && a !== b)
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `${nameA} is ${a}, ${nameB} is ${b}: they mean the same`,
      {
        fix: 'Give only one of them.',
      },
    );
  return a ?? b ?? null;
}

/** Takes `--deepspeed FILE` and `--deepspeed_config FILE` out of the script's arguments, up to `--`. */
function takeConfig(words: readonly string[]): {
  config: string | null;
  scriptArguments: string[];
} {
  const end = words.indexOf('--');
  const open = end < 0 ? [...words] : words.slice(0, end);
  const rest = end < 0 ? [] : words.slice(end + 1);
  let config: string | null = null;
  const scriptArguments: string[] = [];
  while (open.length > 0) {
    const word = open.shift()!;
    const [, name, inline] = /^(--deepspeed|--deepspeed_config)(?:=(.*))?$/s.exec(word) ?? [];
    if (name === undefined) {
      scriptArguments.push(word);
      continue;
    }
    const value = inline ?? (open[0]?.startsWith('-') ? undefined : open.shift());
    // DeepSpeed's own scripts write `--deepspeed --deepspeed_config FILE`: a switch, then the file.
    if (value === undefined && name === '--deepspeed_config')
      throw new DeepSpeedError('LAUNCHER_USAGE', '--deepspeed_config needs a file');
    config = oneOf('--deepspeed', config, name, value);
  }
  return { config, scriptArguments: [...scriptArguments, ...rest] };
}

/**
 * Reads the flags of a command. False: it was asked for help or its version, and has printed it.
 *
 * @param name how the command is called, for the hint
 * @throws DeepSpeedError LAUNCHER_USAGE for a flag that is unknown, missing or malformed
 */
export function parsed(command: Command, argv: readonly string[], name: string): boolean {
  command.configureOutput({ writeErr: () => {} }).exitOverride();
  try {
    command.parse([...argv], { from: 'user' });
    return true;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return false;
    throw new DeepSpeedError('LAUNCHER_USAGE', error.message.replace(/^error: /, ''), {
      fix: `\`${name} --help\` lists the flags.`,
    });
  }
}

/** `ds_report`, also `deepspeed-js report`: one document, for people or as JSON. */
import { Command } from 'commander';
import { renderExplanation } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { packageVersion } from '../launcher/index.ts';
import { integer, parsed } from './arguments.ts';
import { type EffectiveConfig, effectiveConfig } from './effective-config.ts';
import { type Environment, inspectEnvironment, isUsable, type PeerState } from './environment.ts';

interface Flags {
  config?: string;
  model?: string;
  num_procs?: number;
  json?: boolean;
}

/**
 * Prints the report.
 *
 * @returns 0, or 1 when a run could not start here (engine missing, peer of another version).
 * @throws DeepSpeedError LAUNCHER_USAGE, and what a config or model folder that is wrong throws.
 */
export async function report(argv: string[]): Promise<number> {
  const flags = parseFlags(argv);
  if (flags === null) return 0;
  const environment = inspectEnvironment();
  const worldSize = flags.num_procs ?? Math.max(1, Math.floor(environment.cores.usable));
  const config =
    flags.config === undefined
      ? null
      : await effectiveConfig(flags.config, flags.model ?? null, worldSize);
  const text = flags.json
    ? JSON.stringify({ environment, config }, null, 2)
    : [...environmentLines(environment), ...(config === null ? [] : configLines(config))].join(
        '\n',
      );
  process.stdout.write(`${text}\n`);
  return isUsable(environment) ? 0 : 1;
}

function parseFlags(argv: string[]): Flags | null {
  const command = new Command('ds_report')
    .description('Shows what deepspeed-js finds here, and explains a DeepSpeed config.')
    .option('--config <file>', 'explain the effective config of this file')
    .option('--model <folder>', 'check sizes in the config against this model (its config.json)')
    .option(
      '--num_procs <n>',
      'ranks to explain it for (default: the cores)',
      integer('--num_procs', 1),
    )
    .option('--json', 'one JSON document')
    .version(packageVersion, '-v, --version');
  if (!parsed(command, argv, 'ds_report')) return null;
  const flags = command.opts<Flags>();
  if (flags.model !== undefined && flags.config === undefined)
    throw new DeepSpeedError('LAUNCHER_USAGE', '--model needs --config');
  return flags;
}

function environmentLines(found: Environment): string[] {
  const { engine, memory, cores } = found;
  const facts: [string, string][] = [
    ['deepspeed-js', found.version],
    ['Node', `${found.node.version} (needs ${found.node.required})`],
    ['platform', `${found.platform}, ${found.processor}`],
    ['cores', `${cores.usable} usable of ${cores.machine}`],
    ['memory', memoryText(memory)],
    ...('code' in engine
      ? ([
          ['engine', `${engine.message} (${engine.code})`],
          ['', `fix: ${engine.fix}`],
        ] satisfies [string, string][])
      : ([
          ['engine', `build ${engine.buildId}, ${engine.platform}, ${engine.compiler}`],
          ['instructions', instructionsText(engine.isa)],
        ] satisfies [string, string][])),
    ...providerFacts(found.providers),
    ...mpiFacts(found.mpi),
    ...found.peers.map((peer): [string, string] => [peer.name, peerText(peer)]),
    ['TypeScript', found.typescript],
  ];
  const width = Math.max(...facts.map(([name]) => name.length));
  return facts.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
}

function mpiFacts(mpi: Environment['mpi']): [string, string][] {
  if ('code' in mpi)
    return [
      ['MPI', 'not built: runs on this machine only'],
      ['', `for several: ${mpi.fix}`],
    ];
  return [
    ['MPI', `built; ${mpi.mpirun ?? 'mpirun is not installed: apt-get install openmpi-bin'}`],
  ];
}

function providerFacts(providers: Environment['providers']): [string, string][] {
  if (providers === null) return [];
  const others = providers.map(({ name, fault }) =>
    fault === null ? `${name} (plain ONNX)` : `${name} cannot be used: ${fault}`,
  );
  return [['providers', ['cpu (deepspeed.* operators)', ...others].join('; ')]];
}

/** What the `deepspeed.*` operators, optimizers and collectives compute with; `isa`: best first. */
export function instructionsText([active = 'portable', ...lesser]: readonly string[]): string {
  if (active !== 'portable') return `${active} (also compiled in: ${lesser.join(', ')})`;
  const reason =
    process.env.DEEPSPEED_JS_ISA === 'portable'
      ? 'DEEPSPEED_JS_ISA asks for it'
      : 'this processor has none of AVX2, AVX-512 and NEON';
  return `portable: ${reason}; operators work and are several times slower`;
}

function memoryText({ machine, limit, available }: Environment['memory']): string {
  const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  if (limit === null || available === null) return gibibytes(machine);
  return `${gibibytes(available)} available, limit ${gibibytes(limit)}, machine ${gibibytes(machine)}`;
}

function peerText({ version, required, supported }: PeerState): string {
  if (version === null) return `not installed (optional; needs ${required})`;
  return supported ? `${version}, supported` : `${version} is not supported; needs ${required}`;
}

function configLines(config: EffectiveConfig): string[] {
  const model =
    config.parameterCount === null
      ? ''
      : `, a model of ${config.parameterCount.toLocaleString('en-US')} parameters`;
  return [
    '',
    `effective config for ${config.worldSize} ranks${model}:`,
    ...config.assumptions.map((assumption) => `note: ${assumption}`),
    ...renderExplanation(config).map((line) => `  ${line}`),
  ];
}

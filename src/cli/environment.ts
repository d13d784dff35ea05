/** What `ds_report` says of the machine and of what is installed. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeepSpeedError, type ErrorCode } from '../errors.ts';
import { packageVersion, typescriptFlags } from '../launcher/index.ts';
import { findOrtLibrary, type OrtLibrary } from '../native/ort-library.ts';
import { type AddonInfo, loadAddon, requireMpiModule } from '../native/index.ts';
import { inspectProviders, type ProviderState } from './providers.ts';

/** A package that deepspeed-js uses where the user has it. */
export interface PeerState {
  name: string;
  /** Null: not installed where the working directory would find it. */
  version: string | null;
  required: string;
  supported: boolean;
}

/** An engine or a module of it that does not load, as data. */
export interface EngineFault {
  code: ErrorCode;
  message: string;
  fix: string;
}

/** Whether ranks can be joined by MPI; its module is not loaded to find out, since that would start MPI. */
export interface MpiState {
  module: string;
  /** What `mpirun --version` says first; null: not installed. */
  mpirun: string | null;
}

export interface Environment {
  version: string;
  node: { version: string; required: string };
  platform: string;
  processor: string;
  /** Cores of the machine, and those that this process may use: affinity and quota counted. */
  cores: { machine: number; usable: number };
  /** Bytes: of the machine, allowed here, still free of that. Without an engine only the first is known. */
  memory: { machine: number; limit: number | null; available: number | null };
  engine: AddonInfo | EngineFault;
  /** What else than the processor can compute a Trainer's model; null where the engine or ONNX Runtime is missing. */
  providers: ProviderState[] | null;
  /** For several machines. */
  mpi: MpiState | EngineFault;
  peers: PeerState[];
  /** How TypeScript scripts run. */
  typescript: 'stripped by Node' | 'tsx' | 'not available';
}

interface Manifest {
  version: string;
  engines: { node: string };
  peerDependencies: Record<string, string>;
}

export function inspectEnvironment(): Environment {
  const own = readManifest(fileURLToPath(new URL('../..', import.meta.url)));
  const engine = orFault(() => loadAddon().info());
  const limits = 'code' in engine ? null : loadAddon().systemLimits();
  return {
    version: packageVersion,
    node: { version: process.versions.node, required: own.engines.node },
    platform: `${process.platform}-${process.arch}`,
    processor: cpus()[0]?.model ?? 'unknown',
    cores: { machine: cpus().length, usable: limits?.cores ?? availableParallelism() },
    memory: {
      machine: totalmem(),
      limit: limits?.memoryLimit ?? null,
      available: limits?.memoryAvailable ?? null,
    },
    engine,
    providers: 'code' in engine ? null : providersOf(orFault(() => findOrtLibrary())),
    mpi: orFault(() => ({ module: requireMpiModule(), mpirun: mpirunVersion() })),
    peers: inspectPeers(own.peerDependencies),
    typescript: inspectTypescript(),
  };
}

/** Whether a run could start here. */
export function isUsable({ engine, peers }: Environment): boolean {
  return (
    !('code' in engine) && peers.every(({ version, supported }) => version === null || supported)
  );
}

function orFault<T>(inspect: () => T): T | EngineFault {
  try {
    return inspect();
  } catch (error) {
    if (!(error instanceof DeepSpeedError)) throw error;
    return { code: error.code, message: error.message, fix: error.fix };
  }
}

function providersOf(library: OrtLibrary | EngineFault): ProviderState[] | null {
  return 'code' in library ? null : inspectProviders(library.path);
}

function mpirunVersion(): string | null {
  const { error, status, stdout } = spawnSync('mpirun', ['--version'], { encoding: 'utf8' });
  return error || status !== 0 ? null : stdout.split('\n', 1)[0]!.trim();
}

/**
 * ONNX Runtime is looked for where transformers.js would find it: two versions cannot be loaded into
 * one process, so transformers.js's is the one that counts.
 */
function inspectPeers(required: Record<string, string>): PeerState[] {
  const transformers = findPackage('@huggingface/transformers', process.cwd());
  const from = transformers ?? process.cwd();
  return Object.entries(required).map(([name, range]) => {
    const folder =
      name === 'onnxruntime-node' ? findPackage(name, from) : findPackage(name, process.cwd());
    const version = folder === null ? null : readManifest(folder).version;
    return {
      name,
      version,
      required: range,
      supported: version !== null && satisfies(version, range),
    };
  });
}

/** The ranges that package.json uses: an exact version, or `>=A <B`. */
function satisfies(version: string, range: string): boolean {
  return range.split(' ').every((part) => {
    const [, operator, bound] = /^(>=|<)?(.*)$/.exec(part)!;
    const order = version.localeCompare(bound!, 'en', { numeric: true });
    return operator === '>=' ? order >= 0 : operator === '<' ? order < 0 : order === 0;
  });
}

/** The package's folder, found as Node finds it, whether or not its `exports` show package.json. */
function findPackage(name: string, from: string): string | null {
  for (let folder = from; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return realpathSync(candidate);
    if (folder === dirname(folder)) return null;
  }
}

function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;
}

function inspectTypescript(): Environment['typescript'] {
  try {
    const flags = typescriptFlags(join(process.cwd(), 'script.ts'));
    return flags.length === 0 ? 'stripped by Node' : 'tsx';
  } catch {
    return 'not available';
  }
}

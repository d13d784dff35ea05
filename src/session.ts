import type { DeepSpeedConfig } from './config/index.ts';
import { DeepSpeedError } from './errors.ts';
import {
  Claims,
  type ClaimTypes,
  type Host,
  Lifecycle,
  type ParameterOwner,
  type Tracer,
} from './hooks/index.ts';
import { packageVersion } from './launcher/package-version.ts';
import type { NativeBuffer } from './native/index.ts';
import { gibibytes, type Runtime, requireCommBackend, requireMemory } from './runtime.ts';
import { gatherJson } from './strategies/agree.ts';
import { type FlatLayout, flatLayout, frozenLayout } from './layout.ts';
import { layoutAlignment, offloadSettings } from './strategies/offload/settings.ts';
import type { StrategyPlugin } from './strategies/plugin.ts';
import { WholeParameters } from './strategies/whole-parameters.ts';
import type { Precision } from './strategies/precision/precision.ts';
import { footprint, footprintCategories, totalBytes } from './strategies/zero/footprint.ts';
import { dataParallelOptions, zeroOptions } from './strategies/zero/options.ts';
import { whatLowers } from './strategies/zero/what-lowers.ts';
import type { OptimizerRecipe } from './strategies/zero/optimizer.ts';

/** One model in training: the composition of a host, a strategy and a config. */
export interface Session {
  readonly runtime: Runtime;
  readonly host: Host;
  readonly lifecycle: Lifecycle;
  readonly claims: Claims;
  readonly config: DeepSpeedConfig | null;
  readonly strategy: string;
  readonly layout: FlatLayout;
  /** Trainable parameters, all of `layout`. */
  readonly parameters: ParameterOwner;
  /** Absent where training changes every parameter. */
  readonly frozen?: { readonly layout: FlatLayout; readonly parameters: ParameterOwner };
  readonly optimizer: OptimizerRecipe;
  readonly precision: Precision;
}

export interface SessionParts {
  runtime: Runtime;
  host: Host;
  plugin: StrategyPlugin;
  config: DeepSpeedConfig | null;
  optimizer: OptimizerRecipe;
  precision: Precision;
  /** Default 42, as Hugging Face's Trainer has it. */
  seed?: number;
  tracer?: Tracer;
}

/** Composes a session: layout, memory, then the strategy's claims and taps, then `setup`. */
export async function composeSession(parts: SessionParts): Promise<Session> {
  const { runtime, host, plugin, config, optimizer, precision } = parts;
  requireCommBackend(runtime, config?.comm_backend ?? null);
  await requireSameModel(runtime, host);
  const alignment = layoutAlignment(offloadSettings(config));
  const { engine, worldSize } = runtime;
  const layout = flatLayout(host.parameters, worldSize, alignment);
  const ofFrozen = frozenLayout(host.frozen, worldSize, alignment);
  requireRoom(parts, layout, ofFrozen);
  const parameterMemory = whenAsked(() =>
    engine.allocate(layout.total * 4, {
      category: 'parameters',
      shared: worldSize > 1,
      name: 'parameters',
    }),
  );
  const frozen = ofFrozen && {
    layout: ofFrozen,
    memory: whenAsked(() =>
      engine.allocate(ofFrozen.total * 4, {
        category: 'parameters',
        shared: worldSize > 1,
        name: 'frozen parameters',
      }),
    ),
  };
  const lifecycle = new Lifecycle(parts.tracer);
  const claims = new Claims();
  plugin.apply({
    host,
    lifecycle,
    claims,
    addon: runtime.addon,
    engine,
    communicator: runtime.communicator,
    sharesMemory: runtime.sharesMemory,
    layout,
    get parameters() {
      return parameterMemory();
    },
    ...(frozen && {
      frozen: {
        layout: frozen.layout,
        get buffer() {
          return frozen.memory();
        },
      },
    }),
    optimizer,
    precision,
    seed: parts.seed ?? 42,
    config,
    version: packageVersion,
  });
  const session: Session = {
    runtime,
    host,
    lifecycle,
    claims,
    config,
    strategy: plugin.name,
    layout,
    parameters:
      claims.owner('parameters') ??
      new WholeParameters(engine, layout, parameterMemory(), worldSize),
    ...(frozen && {
      frozen: {
        layout: frozen.layout,
        parameters:
          claims.owner('frozen') ??
          new WholeParameters(engine, frozen.layout, frozen.memory(), worldSize),
      },
    }),
    optimizer,
    precision,
  };
  await lifecycle.run('setup', {});
  return session;
}

/** Memory that is allocated once, when it is first asked for. */
function whenAsked(allocate: () => NativeBuffer): () => NativeBuffer {
  let memory: NativeBuffer | undefined;
  return () => {
    memory ??= allocate();
    return memory;
  };
}

/** Throws before memory is taken, when this rank's share of the machine cannot hold what is known to be needed. */
function requireRoom(parts: SessionParts, layout: FlatLayout, frozen: FlatLayout | null): void {
  const { runtime, host, config, optimizer, precision } = parts;
  const { worldSize } = runtime;
  const options = config ? zeroOptions(config, host, runtime) : dataParallelOptions(host);
  const bytes = footprint({ options, host, layout, frozen, worldSize, optimizer, precision });
  const largest = footprintCategories.reduce((a, b) => (bytes[b] > bytes[a] ? b : a));
  const listed = footprintCategories
    .filter((category) => bytes[category] > 0)
    .map((category) => `${category} ${gibibytes(bytes[category])}`);
  requireMemory(
    runtime,
    totalBytes(bytes),
    `${listed.join(', ')} (ZeRO stage ${options.stage})`,
    whatLowers(largest, options.stage),
  );
}

/** After initial values were written, on every rank: makes them equal. */
export async function shareParameters({ runtime, parameters, frozen }: Session): Promise<void> {
  for (const owner of frozen ? [parameters, frozen.parameters] : [parameters]) {
    const shared = owner.share();
    if (shared !== null) await runtime.engine.wait(shared);
  }
}

/** The owner of a claim; a host that cannot do without one asks here. */
export function requireOwner<K extends keyof ClaimTypes>(
  session: Session,
  claim: K,
): ClaimTypes[K] {
  const owner = session.claims.owner(claim);
  if (owner) return owner;
  throw new DeepSpeedError(
    'CLAIM_MISSING',
    `strategy "${session.strategy}" claims no ${claim}, and the ${session.host.name} host has none of its own`,
    { data: { claim, strategy: session.strategy } },
  );
}

/** Ranks with different models would add up unrelated numbers: compare before anything is shared. */
async function requireSameModel(runtime: Runtime, host: Host): Promise<void> {
  const { communicator } = runtime;
  if (communicator.size === 1) return;
  const text = ({ name, shape }: { name: string; shape: readonly number[] }) =>
    `${name} [${shape.join(', ')}]`;
  const frozen = (host.frozen ?? []).map((parameter) => `${text(parameter)}, not trained,`);
  const own = [...host.parameters.map(text), ...frozen];
  const all = await gatherJson(runtime, own);
  for (const [rank, theirs] of all.entries()) {
    const index = own.findIndex((entry, at) => entry !== theirs[at]);
    const at = index < 0 && theirs.length > own.length ? own.length : index;
    if (at < 0) continue;
    const first = communicator.rank < rank ? [communicator.rank, own[at]] : [rank, theirs[at]];
    const second = communicator.rank < rank ? [rank, theirs[at]] : [communicator.rank, own[at]];
    throw new DeepSpeedError(
      'RANKS_DIFFER',
      `the ranks train different models: parameter ${at} is ${first[1] ?? 'absent'} on rank ${first[0]} ` +
        `and ${second[1] ?? 'absent'} on rank ${second[0]}`,
      { data: { ranks: [first[0], second[0]] } },
    );
  }
}

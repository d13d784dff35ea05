/** One rank of the strategy conformance suite. */
import { readConfig, resolveConfig } from '../../config/index.ts';
import type { Capability } from '../../hooks/index.ts';
import { openRuntime, type Runtime } from '../../runtime.ts';
import { composeSession, type Session } from '../../session.ts';
import type { World } from '../../trainer/testing/run-ranks.ts';
import { registerStrategy } from '../registry.ts';
import type { StrategyContext, StrategyPlugin } from '../plugin.ts';
import { precisionOf } from '../precision/precision.ts';
import { ScriptedHost, ScriptedTraining } from './scripted-host.ts';

/** What the module of a strategy under test exports. */
export interface StrategyModule {
  strategy(): StrategyPlugin;
}

export interface StrategyTask {
  /** The module's address. */
  module: string;
  scenario: keyof typeof scenarios;
  /** The ds_config. */
  config: Record<string, unknown>;
  lacking?: Capability[];
  /** A folder for checkpoints. */
  folder?: string;
}

/** Where a parameter's gradient goes; buffers are numbered as they appear. */
export interface Place {
  parameter: string;
  segments: readonly number[];
  buffer: number;
  start: number;
  end: number;
  bytes: number;
}

/** Of the run under way: a thread plays one at a time. */
let task: StrategyTask;
let runtime: Runtime;

const known = new Set<string>();
/** As for a user: the name and the section become known together. */
async function load(module: string): Promise<StrategyModule['strategy']> {
  const { strategy } = (await import(module)) as StrategyModule;
  if (!known.has(module)) registerStrategy(`tested ${module}`, strategy);
  known.add(module);
  return strategy;
}

async function open(watch?: (plugin: StrategyPlugin, context: StrategyContext) => void) {
  const made = (await load(task.module))();
  const config = resolveConfig(
    readConfig({
      train_micro_batch_size_per_gpu: 1,
      gradient_accumulation_steps: 2,
      ...task.config,
    }),
    { worldSize: runtime.worldSize },
  );
  const hyper = {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weightDecay: 0.1,
    biasCorrection: true,
  };
  const session = await composeSession({
    runtime,
    host: new ScriptedHost(task.lacking),
    plugin: watch ? { ...made, apply: (context) => watch(made, context) } : made,
    config,
    optimizer: { kind: 'adamw', groups: [hyper, { ...hyper, weightDecay: 0 }], maxNorm: 1 },
    precision: precisionOf(config, runtime.worldSize),
  });
  return session;
}

async function start() {
  const session = await open();
  const training = new ScriptedTraining(session);
  await training.writeParameters();
  return { session, training };
}

function parametersOf({ layout, parameters }: Session): Record<string, Float32Array> {
  return Object.fromEntries(layout.slots.map(({ name }) => [name, parameters.read(name).slice()]));
}

const scenarios = {
  /** What `apply` leaves behind, and that nothing is added while training. */
  apply: async () => {
    let promised = true;
    const session = await open((plugin, context) => {
      const returned = plugin.apply(context) as unknown;
      promised = typeof (returned as Promise<void> | undefined)?.then === 'function';
    });
    const training = new ScriptedTraining(session);
    const before = { taps: session.lifecycle.taps(), claims: session.claims.entries() };
    await training.writeParameters();
    await training.step();
    const after = { taps: session.lifecycle.taps(), claims: session.claims.entries() };
    return { promised, before, after };
  },
  places: async () => {
    const { session } = await start();
    const owner = session.claims.owner('gradients')!;
    const buffers: unknown[] = [];
    return session.host.parameters.map(({ name, segments }): Place => {
      const { buffer, byteOffset } = owner.location(name);
      if (!buffers.includes(buffer)) buffers.push(buffer);
      const { count } = session.layout.byName.get(name)!;
      return {
        parameter: name,
        segments,
        buffer: buffers.indexOf(buffer),
        start: byteOffset,
        end: byteOffset + count * 4,
        bytes: buffer.bytes,
      };
    });
  },
  train: async () => {
    const { session, training } = await start();
    const initial = parametersOf(session);
    const allocations: number[] = [];
    const norms: number[] = [];
    for (let step = 0; step < 4; step += 1) {
      norms.push((await training.step()).gradientNorm);
      allocations.push(runtime.engine.memory().allocations);
    }
    await session.lifecycle.run('shutdown', {});
    await runtime.engine.idle();
    const { lossScales } = training;
    return { initial, final: parametersOf(session), allocations, norms, lossScales };
  },
  reduced: async () => {
    const { session, training } = await start();
    let count = -1;
    session.lifecycle.tap('release', 'observe', 'suite.look', ({ pass, segment, plan }) => {
      if (pass !== 'backward' || segment !== 0 || plan.microBatch === 0) return;
      const { shard } = session.claims.owner('gradients')!.reduced();
      count = shard!.count;
    });
    await training.step();
    return { count, owned: session.layout.shards[runtime.rank]!.count };
  },
  applyTwice: () =>
    open((plugin, context) => {
      plugin.apply(context);
      plugin.apply(context);
    }),
  open,
  /** A session that ends before it has trained. */
  shutdown: async () => {
    const { session } = await start();
    await session.lifecycle.run('shutdown', {});
    await runtime.engine.idle();
  },
  save: async () => {
    const { session, training } = await start();
    for (let step = 0; step < 2; step += 1) await training.step();
    const event = { directory: task.folder!, tag: 'two', state: { step: 2 } };
    await session.lifecycle.run('saveCheckpoint', event);
    for (let step = 0; step < 2; step += 1) await training.step();
    return parametersOf(session);
  },
  resume: async () => {
    const { session, training } = await start();
    const event = { directory: task.folder!, tag: 'two', state: {} };
    await session.lifecycle.run('loadCheckpoint', event);
    training.resumeAt(2);
    for (let step = 0; step < 2; step += 1) await training.step();
    return parametersOf(session);
  },
};

export async function run(given: StrategyTask, world: World): Promise<unknown> {
  task = given;
  runtime = openRuntime({ world, threads: 1 });
  try {
    const value: unknown = await scenarios[task.scenario]();
    // A session cannot be sent.
    return task.scenario === 'open' || task.scenario === 'applyTwice' ? null : value;
  } finally {
    runtime.close();
  }
}

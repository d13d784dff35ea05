/** From strategy and config to what a TensorFlow.js model trains with. */
import {
  type DeepSpeedConfig,
  optimizerSettings,
  type RawConfig,
  resolveConfig,
} from '../../config/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import { createSchedule, type Schedule } from '../../schedules/index.ts';
import {
  fullPrecision,
  type Precision,
  precisionOf,
} from '../../strategies/precision/precision.ts';
import type { StrategyPlugin } from '../../strategies/plugin.ts';
import { chooseStrategy } from '../../strategies/registry.ts';
import type { Optimizer } from './library.ts';
import type { OptimizerAdapter } from './optimizers.ts';

/** What a user may give `withStrategy`. */
export interface StrategyOptions {
  strategy?: string | StrategyPlugin;
  deepspeed?: string | Record<string, unknown>;
}

export interface Settings {
  readonly plugin: StrategyPlugin;
  readonly config: DeepSpeedConfig | null;
  readonly precision: Precision;
  readonly microBatches: number;
  /** Rows that the script's batches must have; null: whatever they have. */
  readonly trainBatchSize: number | null;
  /** 0 = off. */
  readonly maxNorm: number;
  /** Null: the script's own learning rate. */
  readonly schedule: Schedule | null;
  /** Step 1 also runs whole on every rank, and is compared. */
  readonly verifyFirstBatch: boolean;
  readonly exactRandom: boolean;
  /** Layers, losses and metrics that the user vouches for, by name. */
  readonly declared: ReadonlySet<string>;
}

export function settingsFor(
  options: StrategyOptions,
  launcherConfig: string | null,
  worldSize: number,
  optimizer: { adapter: OptimizerAdapter | null; own: Optimizer },
): Settings {
  const { plugin, raw } = chooseStrategy({ ...options, launcherConfig });
  if (raw === null) {
    return {
      plugin,
      config: null,
      precision: fullPrecision,
      microBatches: 1,
      trainBatchSize: null,
      maxNorm: 0,
      schedule: null,
      verifyFirstBatch: true,
      exactRandom: false,
      declared: new Set(),
    };
  }
  const { adapter, own } = optimizer;
  const rate = adapter?.learningRate() ?? own.learningRate;
  const config = resolveConfig(withBatch(raw), {
    worldSize,
    ...(rate !== undefined && { hostLearningRate: rate }),
  });
  requireSameOptimizer(config, adapter, own);
  const { tfjs } = config;
  const trainBatchSize = raw.values.train_batch_size;
  return {
    plugin,
    config,
    precision: precisionOf(config, worldSize),
    microBatches: config.gradient_accumulation_steps,
    trainBatchSize: typeof trainBatchSize === 'number' ? trainBatchSize : null,
    // Not the config's default of 1: a clipping that nobody asked for would change the script's numbers.
    maxNorm: raw.values.gradient_clipping === undefined ? 0 : config.gradient_clipping,
    schedule: config.scheduler && createSchedule(config.scheduler, rate ?? 0),
    verifyFirstBatch: tfjs?.verify_first_batch ?? true,
    exactRandom: tfjs?.exact_random ?? false,
    declared: new Set(tfjs?.declared),
  };
}

/** The script's batch is train_batch_size: where the config says nothing, any product will do. */
function withBatch(raw: RawConfig): RawConfig {
  const { values } = raw;
  const given = (key: string) => values[key] !== undefined && values[key] !== 'auto';
  const open = { ...values };
  for (const key of [
    'train_batch_size',
    'train_micro_batch_size_per_gpu',
    'gradient_accumulation_steps',
  ]) {
    if (!given(key)) delete open[key];
  }
  if (!given('train_batch_size') && !given('train_micro_batch_size_per_gpu')) {
    open.train_micro_batch_size_per_gpu = 1;
  }
  return { ...raw, values: open };
}

const compared = [
  'kind',
  'lr',
  'beta1',
  'beta2',
  'eps',
  'weightDecay',
  'nesterov',
  'biasCorrection',
] as const;

/** A config may repeat the compiled optimizer, as files from Python do; it does not replace it. */
function requireSameOptimizer(
  { optimizer }: DeepSpeedConfig,
  adapter: OptimizerAdapter | null,
  own: Optimizer,
): void {
  const wanted = optimizerSettings(optimizer);
  if (!wanted || !optimizer) return;
  refuseOneBit(optimizer.type, own);
  adapter?.prepare(adapter.learningRate());
  const compiled = adapter && { kind: adapter.kind, ...adapter.hyper, ...correctionOf(adapter) };
  // Without decay there is nothing to decouple: DeepSpeed's "Adam" is TensorFlow.js's adam.
  const undecayed = wanted.kind === 'adamw' && wanted.weightDecay === 0;
  const same = undecayed && compiled?.kind === 'adam' ? { ...wanted, kind: 'adam' } : wanted;
  const differing = compared
    .map((key) => ({ key, config: same[key], compiled: compiled?.[key] }))
    .filter(({ config: a, compiled: b }) =>
      typeof a === 'number' ? Math.fround(a) !== Math.fround(Number(b ?? 0)) : a !== (b ?? false),
    );
  const shown = (value: unknown) =>
    typeof value === 'number' ? Number(value.toPrecision(7)) : (value ?? 'none');
  if (differing.length === 0) return;
  const what = differing.map(
    ({ key, config: a, compiled: b }) => `${key} ${a} in the config, ${shown(b)} in the script`,
  );
  throw new DeepSpeedError(
    'STRATEGY_CONFLICT',
    `the config's optimizer is not the compiled one (${own.getClassName()}): ${what.join('; ')}`,
    {
      fix: 'Leave `optimizer` out of the config: the one that the model is compiled with is used.',
    },
  );
}

/** TensorFlow.js's adam always corrects its averages; the engine is given the factors. */
function correctionOf({ kind }: OptimizerAdapter): { biasCorrection: boolean } {
  return { biasCorrection: kind === 'adam' };
}

/** These are optimizers, and not ways of sending: after the freeze their steps are others than Adam's. */
function refuseOneBit(type: string, own: Optimizer): void {
  if (!['OneBitAdam', 'ZeroOneAdam', 'OneBitLamb'].includes(type)) return;
  throw new DeepSpeedError(
    'STRATEGY_CONFLICT',
    `${type} is not the compiled optimizer (${own.getClassName()}): it freezes its second moments and sends one bit of each momentum, so that the script would learn other weights than in one process`,
    {
      fix: 'Leave `optimizer` out of the config. To send less with the compiled one: "compression": { "type": "int8" }, "topk" or "powersgd".',
    },
  );
}

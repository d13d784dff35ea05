/** From strategy, config and optimizer option to what a hand-written loop trains with. */
import {
  type DeepSpeedConfig,
  optimizerSettings,
  type RawConfig,
  readConfig,
  resolveConfig,
} from '../../config/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import { constantSchedule, createSchedule, type Schedule } from '../../schedules/index.ts';
import { oneBitRecipe } from '../../strategies/one-bit/index.ts';
import type { StrategyPlugin } from '../../strategies/plugin.ts';
import {
  fullPrecision,
  type Precision,
  precisionOf,
} from '../../strategies/precision/precision.ts';
import { chooseStrategy } from '../../strategies/registry.ts';
import type { OptimizerRecipe } from '../../strategies/zero/optimizer.ts';

/** DeepSpeed's `optimizer` section. */
export interface OptimizerOption {
  type: string;
  params?: Record<string, unknown>;
}

export interface LoopRequest {
  strategy?: string | StrategyPlugin | undefined;
  deepspeed?: string | Record<string, unknown> | undefined;
  optimizer?: OptimizerOption | undefined;
}

export interface LoopSettings {
  readonly plugin: StrategyPlugin;
  readonly config: DeepSpeedConfig | null;
  readonly recipe: OptimizerRecipe;
  readonly precision: Precision;
  readonly schedule: Schedule;
  readonly microBatches: number;
}

export function loopSettings(
  request: LoopRequest,
  launcherConfig: string | null,
  worldSize: number,
): LoopSettings {
  const { plugin, raw } = chooseStrategy({ ...request, launcherConfig });
  // A strategy that takes no config still has an optimizer: the option's, checked by the same rules.
  const effective = resolveConfig(complete(raw ?? readConfig({}), request.optimizer), {
    worldSize,
  });
  const hyper = optimizerSettings(effective.optimizer);
  if (!hyper) {
    throw new DeepSpeedError('ARGUMENTS_INVALID', 'initialize() has no optimizer', {
      fix: 'Give `optimizer` in the DeepSpeed config, or initialize({ optimizer: { type: "AdamW", params: { lr: 1e-3 } } }).',
    });
  }
  if (!raw && oneBitRecipe(effective)) {
    const { type } = effective.optimizer!;
    throw new DeepSpeedError(
      'STRATEGY_CONFLICT',
      `the strategy "${plugin.name}" sends whole gradients, and ${type} does not`,
      { fix: 'Use the strategy "deepspeed", with `optimizer` in its config or as the option.' },
    );
  }
  const { kind, ...group } = hyper;
  return {
    plugin,
    config: raw && effective,
    recipe: {
      kind,
      groups: [group, { ...group, weightDecay: 0 }],
      maxNorm: raw?.values.gradient_clipping === undefined ? 0 : effective.gradient_clipping,
    },
    precision: raw ? precisionOf(effective, worldSize) : fullPrecision,
    schedule: effective.scheduler
      ? createSchedule(effective.scheduler, hyper.lr)
      : constantSchedule(hyper.lr),
    microBatches: effective.gradient_accumulation_steps,
  };
}

/** A loop shows no batch size: one is made up where the config has none. The option fills the optimizer. */
function complete(raw: RawConfig, optimizer: OptimizerOption | undefined): RawConfig {
  const values = { ...raw.values };
  if (
    values.train_batch_size === undefined &&
    values.train_micro_batch_size_per_gpu === undefined
  ) {
    values.train_micro_batch_size_per_gpu = 1;
  }
  if (optimizer) {
    if (values.optimizer && JSON.stringify(values.optimizer) !== JSON.stringify(optimizer)) {
      throw new DeepSpeedError(
        'STRATEGY_CONFLICT',
        'the optimizer given to initialize() and the one in the DeepSpeed config differ',
        { fix: 'Give it in one place.' },
      );
    }
    values.optimizer = optimizer;
  }
  return { ...raw, values };
}

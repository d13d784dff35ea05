import { defineSection, type RawConfig, readConfig, requireSameConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { nearest } from '../nearest.ts';
import { applyDataParallel, applyDeepSpeed } from './deepspeed.ts';
import type { StrategyPlugin } from './plugin.ts';

interface Entry {
  make(): StrategyPlugin;
  /** False: the strategy takes no ds_config. */
  config: boolean;
  /** ZeRO stage that the name fixes. */
  stage?: number;
}

const deepspeed = (): StrategyPlugin => ({ name: 'deepspeed', apply: applyDeepSpeed });

const registered = new Map<string, Entry>([
  ['ddp', { make: () => ({ name: 'ddp', apply: applyDataParallel }), config: false }],
  ['deepspeed', { make: deepspeed, config: true }],
  ['deepspeed_stage_1', { make: deepspeed, config: true, stage: 1 }],
  ['deepspeed_stage_2', { make: deepspeed, config: true, stage: 2 }],
  ['deepspeed_stage_3', { make: deepspeed, config: true, stage: 3 }],
]);

/** Strategies of Lightning that exist by name only. */
const later = new Set([
  'deepspeed_stage_2_offload',
  'deepspeed_stage_3_offload',
  'deepspeed_stage_3_offload_nvme',
]);

/** Makes a strategy usable by name. Its config section, if any, becomes part of ds_config.json. */
export function registerStrategy(name: string, make: () => StrategyPlugin): void {
  if (registered.has(name) || later.has(name)) {
    throw new DeepSpeedError('STRATEGY_TAKEN', `there is a strategy "${name}" already`);
  }
  const { section } = make();
  if (section) defineSection(section);
  registered.set(name, { make, config: true });
}

export interface ChosenStrategy {
  plugin: StrategyPlugin;
  /** The ds_config as written; null when the strategy takes none. */
  raw: RawConfig | null;
}

export interface StrategyRequest {
  /** From the trainer's arguments. */
  strategy?: string | StrategyPlugin | undefined;
  deepspeed?: string | Record<string, unknown> | undefined;
  /** Path that the launcher was given. */
  launcherConfig: string | null;
}

/**
 * Decides which strategy a session uses. Code wins over the launcher's default; a config given by both
 * must be the same. Nothing given: plain data parallelism, which on one rank is plain training.
 */
export function chooseStrategy(request: StrategyRequest): ChosenStrategy {
  const { strategy, deepspeed: inCode, launcherConfig } = request;
  const raw = chooseConfig(inCode, launcherConfig);
  if (typeof strategy === 'object') return { plugin: strategy, raw: raw ?? readConfig({}) };
  const name = strategy ?? (raw ? 'deepspeed' : 'ddp');
  if (later.has(name)) {
    throw new DeepSpeedError('NOT_AVAILABLE_YET', `strategy "${name}" is not available yet`, {
      fix: `Use one of ${[...registered.keys()].join(', ')}.`,
    });
  }
  const entry = registered.get(name);
  if (!entry) {
    const near = nearest(name, registered.keys());
    throw new DeepSpeedError(
      'STRATEGY_UNKNOWN',
      `there is no strategy "${name}"${near ? `; did you mean "${near}"?` : ''}`,
      { fix: `Use one of ${[...registered.keys()].join(', ')}, or registerStrategy.` },
    );
  }
  if (!entry.config) {
    if (raw) {
      throw new DeepSpeedError(
        'STRATEGY_CONFLICT',
        `strategy "${name}" takes no DeepSpeed config, and ${raw.source} was given`,
        { fix: 'Use strategy "deepspeed", or leave the config out.' },
      );
    }
    return { plugin: entry.make(), raw: null };
  }
  return { plugin: entry.make(), raw: withStage(raw ?? readConfig({}), name, entry.stage) };
}

function chooseConfig(
  inCode: string | Record<string, unknown> | undefined,
  launcherConfig: string | null,
): RawConfig | null {
  const code = inCode === undefined ? null : readConfig(inCode);
  const launcher = launcherConfig === null ? null : readConfig(launcherConfig);
  if (code && launcher) requireSameConfig(code, launcher);
  return code ?? launcher;
}

/** Lightning's default for a strategy without a stage in its config is stage 2. */
function withStage(raw: RawConfig, name: string, stage: number | undefined): RawConfig {
  const zero = (raw.values.zero_optimization ?? {}) as Record<string, unknown>;
  if (stage !== undefined && zero.stage !== undefined && zero.stage !== stage) {
    throw new DeepSpeedError(
      'STRATEGY_CONFLICT',
      `strategy "${name}" means stage ${stage}, and ${raw.source} says zero_optimization.stage ${zero.stage}`,
      { fix: 'Use strategy "deepspeed" and let the config decide, or remove the key.' },
    );
  }
  const wanted =
    stage ?? (raw.values.zero_optimization === undefined && isEmpty(raw) ? 2 : undefined);
  if (wanted === undefined) return raw;
  return { ...raw, values: { ...raw.values, zero_optimization: { ...zero, stage: wanted } } };
}

function isEmpty(raw: RawConfig): boolean {
  return Object.keys(raw.values).length === 0;
}

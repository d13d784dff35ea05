import { defineSection, type RawConfig, readConfig, requireSameConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { nearest } from '../nearest.ts';
import { applyDataParallel, applyDeepSpeed } from './deepspeed.ts';
import type { StrategyPlugin } from './plugin.ts';

interface Entry {
  make(): StrategyPlugin;
  /** False: the strategy takes no ds_config. */
  config: boolean;
  /** What the name fixes of `zero_optimization`: a key, or the device of a section. */
  fixes?: Fixed;
}

interface Fixed {
  stage: number;
  offload_optimizer?: 'cpu' | 'nvme';
  offload_param?: 'cpu' | 'nvme';
}

const deepspeed = (): StrategyPlugin => ({ name: 'deepspeed', apply: applyDeepSpeed });

/** Lightning's names. */
const fixed: Record<string, Fixed> = {
  deepspeed_stage_1: { stage: 1 },
  deepspeed_stage_2: { stage: 2 },
  deepspeed_stage_2_offload: { stage: 2, offload_optimizer: 'cpu' },
  deepspeed_stage_3: { stage: 3 },
  deepspeed_stage_3_offload: { stage: 3, offload_optimizer: 'cpu', offload_param: 'cpu' },
  deepspeed_stage_3_offload_nvme: { stage: 3, offload_optimizer: 'nvme', offload_param: 'nvme' },
};

const registered = new Map<string, Entry>([
  ['ddp', { make: () => ({ name: 'ddp', apply: applyDataParallel }), config: false }],
  ['deepspeed', { make: deepspeed, config: true }],
  ...Object.entries(fixed).map(([name, fixes]): [string, Entry] => [
    name,
    { make: deepspeed, config: true, fixes },
  ]),
]);

/** Makes a strategy usable by name. Its config section, if any, becomes part of ds_config.json. */
export function registerStrategy(name: string, make: () => StrategyPlugin): void {
  if (registered.has(name)) {
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
  return { plugin: entry.make(), raw: withFixed(raw ?? readConfig({}), name, entry.fixes) };
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

/** Adds what a strategy's name fixes. Lightning's default without a stage in name and config is stage 2. */
function withFixed(raw: RawConfig, name: string, fixes: Fixed | undefined): RawConfig {
  const written = raw.values.zero_optimization;
  if (!fixes) {
    return isEmpty(raw) ? { ...raw, values: { zero_optimization: { stage: 2 } } } : raw;
  }
  const zero = { ...(written as Record<string, unknown> | undefined) };
  const conflict = (key: string, meant: unknown, says: unknown) => {
    if (says === undefined || says === meant) return;
    throw new DeepSpeedError(
      'STRATEGY_CONFLICT',
      `strategy "${name}" means ${key} ${meant}, and ${raw.source} says zero_optimization.${key} ${says}`,
      { fix: 'Use strategy "deepspeed" and let the config decide, or remove the key.' },
    );
  };
  const { stage, ...devices } = fixes;
  conflict('stage', stage, zero.stage);
  zero.stage = stage;
  for (const [section, device] of Object.entries(devices)) {
    const given = zero[section] as { device?: unknown } | null | undefined;
    conflict(`${section}.device`, device, given?.device);
    zero[section] = { ...given, device };
  }
  return { ...raw, values: { ...raw.values, zero_optimization: zero } };
}

function isEmpty(raw: RawConfig): boolean {
  return Object.keys(raw.values).length === 0;
}

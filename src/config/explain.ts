/** What a config really means: effective values, where each came from, and what looks wrong. */
import type { Origin } from './check.ts';
import type { Entry, Keys } from './key.ts';
import type { DeepSpeedConfig } from './resolve.ts';
import { table } from './table.ts';

export interface ExplainedValue {
  path: string;
  value: unknown;
  origin: Origin;
  meaning: string;
  /** Why a key that was written has no effect here. */
  note?: string | undefined;
}

export interface Explanation {
  values: ExplainedValue[];
  warnings: string[];
}

export interface ExplainContext {
  /** Elements of the model that training updates. */
  parameterCount?: number;
}

/** Effective values in the table's order. Sections that are off are left out. */
export function explainConfig(config: DeepSpeedConfig, context: ExplainContext = {}): Explanation {
  const values: ExplainedValue[] = [];
  explainKeys(table, config as unknown as Record<string, unknown>, '', config, values);
  return {
    values,
    warnings: [
      ...config.provenance.warnings,
      ...sizeWarnings(config, context),
      ...wholeGradientWarnings(config, context),
    ],
  };
}

function explainKeys(
  keys: Keys,
  node: Record<string, unknown>,
  path: string,
  config: DeepSpeedConfig,
  out: ExplainedValue[],
): void {
  if (node.enabled === false) return;
  for (const [name, entry] of Object.entries(keys)) {
    explainEntry(entry, node[name], path === '' ? name : `${path}.${name}`, config, out);
  }
}

function explainEntry(
  entry: Entry,
  value: unknown,
  path: string,
  config: DeepSpeedConfig,
  out: ExplainedValue[],
): void {
  const origin = config.provenance.origins[path] ?? 'default';
  const { stage } = config.zero_optimization;
  switch (entry.kind) {
    case 'key': {
      const idle = path.startsWith('zero_optimization.stage3_') && stage !== 3;
      const quiet = (entry.status !== 'available' || idle) && origin === 'default';
      if (!quiet) out.push({ path, value, origin, meaning: entry.meaning, note: entry.note });
      return;
    }
    case 'section':
      if (value === null) return;
      explainKeys(entry.keys, value as Record<string, unknown>, path, config, out);
      return;
    case 'choice': {
      if (value === null) return;
      const { type, params } = value as { type: string; params: Record<string, unknown> };
      const variant = entry.variants[type]!;
      out.push({ path: `${path}.type`, value: type, origin: 'file', meaning: variant.meaning });
      explainKeys(variant.params, params, `${path}.params`, config, out);
      return;
    }
    case 'block':
      if (value !== null) out.push({ path, value: 'off', origin, meaning: entry.meaning });
  }
}

/** DeepSpeed's defaults suit models of billions; on a smaller one they switch a technique off silently. */
function sizeWarnings(config: DeepSpeedConfig, { parameterCount }: ExplainContext): string[] {
  if (parameterCount === undefined) return [];
  const warnings: string[] = [];
  const { worldSize, origins } = config.provenance;
  const zero = config.zero_optimization;
  const communicates = worldSize > 1;
  const gathers = communicates && zero.stage === 3;
  const sized: [string, number, boolean, string][] = [
    [
      'zero_optimization.reduce_bucket_size',
      zero.reduce_bucket_size,
      communicates && zero.overlap_comm,
      'all gradients fit one bucket, so nothing is reduced before backward has ended',
    ],
    [
      'zero_optimization.allgather_bucket_size',
      zero.allgather_bucket_size,
      communicates && (zero.stage === 1 || zero.stage === 2),
      'all parameters are gathered in one piece',
    ],
    [
      'zero_optimization.stage3_param_persistence_threshold',
      zero.stage3_param_persistence_threshold,
      gathers,
      'every rank keeps all parameters',
    ],
    [
      'zero_optimization.stage3_prefetch_bucket_size',
      zero.stage3_prefetch_bucket_size,
      gathers && zero.stage3_max_live_parameters >= parameterCount,
      'all parameters are gathered when a forward pass begins',
    ],
    [
      'zero_optimization.stage3_max_reuse_distance',
      zero.stage3_max_reuse_distance,
      gathers && zero.stage3_max_live_parameters >= parameterCount,
      'no parameter is released between its forward and its backward',
    ],
  ];
  for (const [path, size, matters, consequence] of sized) {
    if (!matters || size < parameterCount) continue;
    const whose = origins[path] === 'default' ? 'the default of ' : '';
    warnings.push(
      `${whose}${path}, ${grouped(size)} elements, is not below the model's ${grouped(parameterCount)}: ${consequence}`,
    );
  }
  return warnings;
}

/** A key that trades memory says how much. */
function wholeGradientWarnings(config: DeepSpeedConfig, context: ExplainContext): string[] {
  const { stage, reduce_at_boundary: atBoundary } = config.zero_optimization;
  if (stage < 2 || !atBoundary) return [];
  const path = 'zero_optimization.reduce_at_boundary';
  if (config.gradient_accumulation_steps === 1) {
    return [`${path} changes nothing without accumulation: every micro batch is a boundary`];
  }
  const { parameterCount } = context;
  const { worldSize } = config.provenance;
  const bytes = parameterCount === undefined ? '' : `: ${grouped(4 * parameterCount)} bytes`;
  return [
    `${path} keeps whole gradients on every rank, 4 bytes an element instead of 4/${worldSize}${bytes}`,
  ];
}

function grouped(count: number): string {
  return count.toLocaleString('en-US');
}

/** Lines for a terminal: path, value, origin; a note under what has no effect; warnings last. */
export function renderExplanation({ values, warnings }: Explanation): string[] {
  const shown = values.map(({ value }) =>
    Number.isInteger(value) ? grouped(value as number) : JSON.stringify(value),
  );
  const pathWidth = Math.max(0, ...values.map(({ path }) => path.length));
  const valueWidth = Math.min(24, Math.max(0, ...shown.map((text) => text.length)));
  const lines = values.flatMap(({ path, origin, note }, i) => {
    const line = `${path.padEnd(pathWidth)}  ${shown[i]!.padEnd(valueWidth)}  ${origin}`;
    return note === undefined || origin === 'default' ? [line] : [line, `  note: ${note}`];
  });
  return [...lines, ...warnings.map((warning) => `warning: ${warning}`)];
}

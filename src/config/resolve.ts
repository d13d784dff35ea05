/** From a written config to the effective one: autos, checks, defaults, rules, batch sizes. */
import type { Autos } from './autos.ts';
import { type BatchSizes, solveBatch } from './batch.ts';
import { type Findings, type Origin, checkKeys, unknownKey } from './check.ts';
import { isObject } from './node.ts';
import { configError } from './problem.ts';
import type { RawConfig } from './read.ts';
import { definedSections, type Extended } from './registry.ts';
import { checkRules } from './rules.ts';
import { type ConfigValues, aliases, table } from './table.ts';

export interface ResolveContext {
  /** Ranks that see different data. */
  worldSize: number;
  /** What the host trainer's arguments say; see `trainerAutos`. */
  autos?: Autos;
  /** The learning rate of the host's own optimizer, where the config brings none. */
  hostLearningRate?: number;
  /** Optimizer steps of the whole run. */
  totalSteps?: number;
}

/** What the optimizer section can be once everything that is not available has been refused. */
export type AvailableOptimizer = Extract<
  ConfigValues['optimizer'],
  {
    type:
      | 'Adam'
      | 'AdamW'
      | 'SGD'
      | 'Lion'
      | 'Adagrad'
      | 'Lamb'
      | 'OneBitAdam'
      | 'ZeroOneAdam'
      | 'OneBitLamb';
  }
>;

/**
 * The effective config: DeepSpeed's own names, every key filled, batch sizes solved. Plain data.
 */
export interface DeepSpeedConfig
  extends Omit<ConfigValues, keyof BatchSizes | 'optimizer'>,
    BatchSizes,
    Extended {
  optimizer: AvailableOptimizer | null;
  zero_optimization: Omit<ConfigValues['zero_optimization'], 'overlap_comm'> & {
    overlap_comm: boolean;
  };
  provenance: {
    source: string;
    worldSize: number;
    /** Where each value came from, by dotted path. */
    origins: Record<string, Origin>;
    /** To be shown once, by rank 0. */
    warnings: string[];
  };
}

/**
 * Checks and completes a config.
 *
 * @throws CONFIG_INVALID listing every problem, or NOT_AVAILABLE_YET when all of them are capabilities
 *   that do not exist yet
 */
export function resolveConfig(raw: RawConfig, context: ResolveContext): DeepSpeedConfig {
  const findings: Findings = { problems: [], warnings: [], origins: {} };
  const { own, extensions } = splitSections(raw, findings);
  const values = checkKeys(table, own, '', context.autos ?? {}, findings) as ConfigValues;
  const rules = checkRules(values, context);
  // A key that is wrong by itself was replaced by its default: what a rule says of that is no news.
  const named = new Set(findings.problems.map(({ path }) => path));
  findings.problems.push(...rules.problems.filter(({ path }) => !named.has(path)));
  findings.warnings.push(...rules.warnings);

  const batch = solveBatch(
    {
      train_batch_size: values.train_batch_size,
      train_micro_batch_size_per_gpu: values.train_micro_batch_size_per_gpu,
      gradient_accumulation_steps: values.gradient_accumulation_steps,
    },
    context.worldSize,
  );
  // Sizes that are wrong by themselves would make the product nonsense, too.
  const sized = findings.problems.some((problem) => /^(train|gradient_accum)/.test(problem.path));
  if ('kind' in batch) {
    if (!sized) findings.problems.push(batch);
  } else {
    for (const name of Object.keys(batch) as (keyof BatchSizes)[])
      if (values[name] === null) findings.origins[name] = 'computed';
  }
  if (findings.problems.length > 0 || 'kind' in batch) {
    throw configError(findings.problems, raw.source, raw.lines);
  }
  return {
    ...values,
    ...batch,
    optimizer: values.optimizer as AvailableOptimizer | null,
    zero_optimization: {
      ...values.zero_optimization,
      overlap_comm: values.zero_optimization.overlap_comm ?? true,
    },
    extensions,
    provenance: {
      source: raw.source,
      worldSize: context.worldSize,
      origins: findings.origins,
      warnings: findings.warnings,
    },
  };
}

/** Applies aliases, and takes out and checks the sections of third parties. */
function splitSections(raw: RawConfig, findings: Findings) {
  const own: Record<string, unknown> = {};
  const extensions: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(raw.values)) {
    const definition = definedSections().get(name);
    if (definition === undefined) {
      const target = aliases[name] ?? name;
      if (target !== name && Object.hasOwn(raw.values, target)) {
        findings.problems.push({
          kind: 'rule',
          path: name,
          expected: `is another name of ${target}; keep one`,
        });
      } else {
        own[target] = value;
      }
      continue;
    }
    const parsed = definition.schema.safeParse(value);
    if (parsed.success) extensions[name] = parsed.data;
    else {
      for (const issue of parsed.error.issues) {
        const path = [name, ...issue.path.map(String)].join('.');
        if (issue.code === 'unrecognized_keys')
          for (const key of issue.keys) findings.problems.push(unknownKey(`${path}.${key}`, {}));
        else
          findings.problems.push({
            kind: 'value',
            path,
            got: valueAt(value, issue.path),
            expected: issue.message,
          });
      }
    }
  }
  return { own, extensions };
}

function valueAt(value: unknown, path: PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (node, key) =>
      isObject(node) || Array.isArray(node)
        ? (node as Record<PropertyKey, unknown>)[key]
        : undefined,
    value,
  );
}

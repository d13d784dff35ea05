/** Rules across sections. Each looks at filled values and says what excludes what. */
import { compressionFindings } from './compression-rules.ts';
import type { Problem } from './problem.ts';
import { nonDefaultKeysWithoutUse, sparsityProblems } from './sparsity-rules.ts';
import type { ConfigValues } from './table.ts';

export interface RuleContext {
  /** The host trainer has an optimizer of its own with this learning rate. */
  hostLearningRate?: number | undefined;
  /** Optimizer steps of the whole run, where the host knows them. */
  totalSteps?: number | undefined;
}

interface RuleFindings {
  problems: Problem[];
  warnings: string[];
}

export function checkRules(config: ConfigValues, context: RuleContext): RuleFindings {
  const findings: RuleFindings = { problems: [], warnings: [] };
  for (const rule of rules) rule(config, context, findings);
  return findings;
}

type Rule = (config: ConfigValues, context: RuleContext, findings: RuleFindings) => void;

function refuse(findings: RuleFindings, path: string, expected: string): void {
  findings.problems.push({ kind: 'rule', path, expected });
}

const rules: Rule[] = [
  onePrecision,
  offloadedStates,
  averagingOfShards,
  lossScale,
  schedulerNeeds,
  cycleMomentum,
  layerDropNeeds,
  oneBitAlone,
  lambWhole,
  swapping,
  gradientCompression,
  plusPlus,
  sparseAttention,
];

/** ZeRO++ is about what stage 3 sends. */
function plusPlus(
  { zero_optimization: zero }: ConfigValues,
  _: RuleContext,
  findings: RuleFindings,
): void {
  const { stage, zero_hpz_partition_size: partition, offload_param } = zero;
  const asked = {
    zero_quantized_weights: zero.zero_quantized_weights,
    zero_quantized_nontrainable_weights: zero.zero_quantized_nontrainable_weights,
    zero_quantized_gradients: zero.zero_quantized_gradients,
    zero_hpz_partition_size: partition > 1,
  };
  const wrong = (name: keyof typeof asked, expected: string) => {
    if (asked[name]) refuse(findings, `zero_optimization.${name}`, expected);
  };
  if (stage !== 3) {
    for (const name of Object.keys(asked) as (keyof typeof asked)[]) {
      wrong(name, `needs zero_optimization.stage 3, got ${stage}`);
    }
  }
  if (!zero.reduce_scatter) wrong('zero_quantized_gradients', 'needs reduce_scatter, got false');
  if (offload_param.device === 'nvme') {
    wrong(
      'zero_hpz_partition_size',
      'excludes offload_param.device "nvme": it keeps parameters in memory',
    );
  }
}

function onePrecision({ fp16, bf16 }: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  if (fp16.enabled && bf16.enabled) {
    refuse(findings, 'fp16.enabled', 'excludes bf16.enabled; set one of them to false');
  }
}

/** DeepSpeed's own limits: what is not sharded is not offloaded. */
function offloadedStates(config: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const { stage, offload_optimizer, offload_param } = config.zero_optimization;
  const needs = (section: string, device: string, least: number) =>
    refuse(
      findings,
      `zero_optimization.${section}.device`,
      `${device} needs zero_optimization.stage ${least === 3 ? '3' : `${least} to 3`}, got ${stage}`,
    );
  if (offload_param.device !== 'none' && stage < 3) needs('offload_param', offload_param.device, 3);
  const { device } = offload_optimizer;
  if (device === 'nvme' && stage < 3) needs('offload_optimizer', device, 3);
  else if (device !== 'none' && stage < 1) needs('offload_optimizer', device, 1);
}

/** DeepSpeed's ZeRO-2 and 3 average in one order only, ours with reduce_scatter after it. */
function averagingOfShards(config: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const { stage, reduce_scatter } = config.zero_optimization;
  if (stage < 2 || !reduce_scatter) return;
  const instead = 'set zero_optimization.reduce_scatter to false, or use stage 0 or 1';
  if (config.prescale_gradients) {
    refuse(
      findings,
      'prescale_gradients',
      `excludes ZeRO stage ${stage} with reduce_scatter; ${instead}`,
    );
  }
  if (config.gradient_predivide_factor !== 1) {
    refuse(
      findings,
      'gradient_predivide_factor',
      `excludes ZeRO stage ${stage} with reduce_scatter unless it is 1; ${instead}`,
    );
  }
}

function lossScale({ fp16 }: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const start = 2 ** fp16.initial_scale_power;
  if (fp16.enabled && fp16.loss_scale === 0 && fp16.min_loss_scale > start) {
    refuse(
      findings,
      'fp16.min_loss_scale',
      `${fp16.min_loss_scale} is above the initial scale 2^${fp16.initial_scale_power} = ${start}`,
    );
  }
}

function schedulerNeeds(config: ConfigValues, context: RuleContext, findings: RuleFindings): void {
  const { scheduler, optimizer } = config;
  if (scheduler === null) return;
  const hasRate = optimizer !== null || context.hostLearningRate !== undefined;
  switch (scheduler.type) {
    case 'WarmupLR':
      if (scheduler.params.warmup_max_lr === null && !hasRate)
        refuse(
          findings,
          'scheduler.params.warmup_max_lr',
          'needed here: there is no optimizer.params.lr to warm up to',
        );
      break;
    case 'WarmupDecayLR':
    case 'WarmupCosineLR': {
      const { total_num_steps: total, warmup_num_steps: warmup } = scheduler.params;
      if (total === null)
        refuse(findings, 'scheduler.params.total_num_steps', `needed by ${scheduler.type}`);
      else if (total < warmup)
        findings.warnings.push(
          `scheduler.params.total_num_steps ${total} is less than warmup_num_steps ${warmup}: training ends inside the warm-up`,
        );
      if (scheduler.type === 'WarmupCosineLR' && !hasRate)
        refuse(
          findings,
          'scheduler.type',
          'WarmupCosineLR scales optimizer.params.lr, which is not given',
        );
      break;
    }
    case 'OneCycle':
      for (const name of ['cycle_min_lr', 'cycle_max_lr'] as const)
        if (scheduler.params[name] === null)
          refuse(findings, `scheduler.params.${name}`, 'needed by OneCycle');
      break;
    case 'LRRangeTest':
      break;
  }
}

function cycleMomentum(
  { scheduler, optimizer }: ConfigValues,
  _: RuleContext,
  findings: RuleFindings,
): void {
  if (scheduler?.type !== 'OneCycle' || !scheduler.params.cycle_momentum) return;
  if (optimizer?.type === 'SGD' || optimizer?.type === 'Adagrad') {
    findings.warnings.push(
      `scheduler.params.cycle_momentum has no effect: ${optimizer.type} has no betas (DeepSpeed does the same)`,
    );
  }
}

/** What optimizers that send one bit an element cannot be combined with, and where that never begins. */
function oneBitAlone(config: ConfigValues, context: RuleContext, findings: RuleFindings): void {
  const { optimizer } = config;
  if (
    optimizer?.type !== 'OneBitAdam' &&
    optimizer?.type !== 'ZeroOneAdam' &&
    optimizer?.type !== 'OneBitLamb'
  )
    return;
  if (config.zero_optimization.stage > 0) {
    refuse(
      findings,
      'zero_optimization.stage',
      `excludes ${optimizer.type} unless it is 0: gathering updated parameters would cost what compression saved`,
    );
  }
  if (optimizer.type === 'ZeroOneAdam') {
    if (config.fp16.enabled) {
      refuse(
        findings,
        'fp16.enabled',
        'excludes ZeroOneAdam: a step that loss scaling skips cannot be taken out of the moves that ranks have gathered; use bf16',
      );
    }
    return;
  }
  const freeze = optimizer.params.freeze_step;
  if (freeze === 0) {
    findings.warnings.push(
      'optimizer.params.freeze_step is 0: the first step is dense all the same, and its gradient alone makes the second moments',
    );
  }
  const total = context.totalSteps;
  if (total !== undefined && freeze >= total) {
    findings.warnings.push(
      `optimizer.params.freeze_step is ${freeze} and the run has ${total} steps: it ends before compression begins`,
    );
  }
}

/** LAMB measures whole tensors, and its bounds and those of 1-bit LAMB are in order. */
function lambWhole(config: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const { optimizer } = config;
  if (optimizer?.type !== 'Lamb' && optimizer?.type !== 'OneBitLamb') return;
  if (optimizer.type === 'Lamb' && config.zero_optimization.stage > 0) {
    refuse(
      findings,
      'zero_optimization.stage',
      'excludes Lamb unless it is 0: its step in a tensor needs the norm of the whole tensor, and shards cut through tensors',
    );
  }
  const { min_coeff, max_coeff } = optimizer.params;
  if (min_coeff > max_coeff) {
    refuse(
      findings,
      'optimizer.params.min_coeff',
      `${min_coeff} is above max_coeff ${max_coeff}; the trust ratio lies between them`,
    );
  }
  if (optimizer.type !== 'OneBitLamb') return;
  const { factor_min, factor_max } = optimizer.params;
  if (factor_min > factor_max) {
    refuse(
      findings,
      'optimizer.params.factor_min',
      `${factor_min} is above factor_max ${factor_max}; the factor lies between them`,
    );
  }
}

/** What goes to disk goes to a folder, in blocks that direct I/O can move. */
function swapping(config: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const { offload_optimizer, offload_param } = config.zero_optimization;
  const sections = { offload_optimizer, offload_param };
  for (const [name, { device, nvme_path: path }] of Object.entries(sections)) {
    if (device !== 'nvme' || (path !== null && path !== '')) continue;
    const key = `zero_optimization.${name}.nvme_path`;
    refuse(findings, key, 'needed with device "nvme": an existing folder on a local disk');
  }
  const { block_size: block } = config.aio;
  if (block % 4096 !== 0) {
    refuse(
      findings,
      'aio.block_size',
      `${block} is not a multiple of 4096, which direct I/O needs`,
    );
  }
}

function gradientCompression(
  config: ConfigValues,
  { totalSteps }: RuleContext,
  findings: RuleFindings,
): void {
  const { problems, warnings } = compressionFindings(config, totalSteps);
  for (const { path, expected } of problems) refuse(findings, path, expected);
  findings.warnings.push(...warnings);
}

/** DeepSpeed has no defaults for them. */
function layerDropNeeds(config: ConfigValues, _: RuleContext, findings: RuleFindings): void {
  const { enabled, theta, gamma } = config.progressive_layer_drop;
  if (!enabled) return;
  const published = { theta: 0.5, gamma: 0.001 };
  for (const [name, value] of Object.entries({ theta, gamma })) {
    if (value !== null) continue;
    const usual = published[name as keyof typeof published];
    refuse(findings, `progressive_layer_drop.${name}`, `needed; the published value is ${usual}`);
  }
}

function sparseAttention(
  { sparse_attention: values }: ConfigValues,
  _: RuleContext,
  findings: RuleFindings,
): void {
  if (values === null) return;
  for (const { key, expected } of sparsityProblems(values))
    refuse(findings, `sparse_attention.${key}`, expected);
  const unused = nonDefaultKeysWithoutUse(values);
  if (unused.length > 0) {
    findings.warnings.push(
      `sparse_attention: mode "${values.mode}" does not use ${unused.join(', ')} (DeepSpeed ignores them, too)`,
    );
  }
}

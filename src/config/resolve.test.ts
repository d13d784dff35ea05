import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import type { DeepSpeedError } from '../errors.ts';
import {
  defineSection,
  optimizerSettings,
  readConfig,
  type ResolveContext,
  resolveConfig,
  trainerAutos,
} from './index.ts';
import type { Problem } from './problem.ts';

const batch = { train_batch_size: 8 };

function resolve(config: Record<string, unknown>, context: Partial<ResolveContext> = {}) {
  return resolveConfig(readConfig({ ...batch, ...config }), { worldSize: 2, ...context });
}

function failure(
  config: Record<string, unknown>,
  context: Partial<ResolveContext> = {},
): DeepSpeedError {
  try {
    resolve(config, context);
  } catch (error) {
    return error as DeepSpeedError;
  }
  throw new Error('the config was accepted');
}

const problemsOf = (error: DeepSpeedError) => error.data.problems as Problem[];

describe('defaults and origins', () => {
  it('fills every key and says where each came from', () => {
    const config = resolve({ optimizer: { type: 'adamw', params: { lr: 2e-4 } } });
    expect(config.zero_optimization).toMatchObject({ stage: 0, reduce_bucket_size: 5e8 });
    expect(config.gradient_clipping).toBe(1);
    expect(config.optimizer).toMatchObject({
      type: 'AdamW',
      params: { lr: 2e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0 },
    });
    expect(config.scheduler).toBeNull();
    const { origins } = config.provenance;
    expect(origins['optimizer.params.lr']).toBe('file');
    expect(origins['optimizer.params.eps']).toBe('default');
    expect(origins.train_batch_size).toBe('file');
    expect(origins.train_micro_batch_size_per_gpu).toBe('computed');
  });

  it('is plain data', () => {
    const config = resolve({ zero_optimization: { stage: 2 } });
    expect(JSON.parse(JSON.stringify(config))).toEqual(config);
  });

  it('reads bfloat16 as bf16', () => {
    expect(
      resolve({ bfloat16: { enabled: false, check_grad_overflow: false } }).bf16,
    ).toMatchObject({
      check_grad_overflow: false,
    });
    expect(failure({ bfloat16: {}, bf16: {} }).message).toContain('another name of bf16');
  });
});

describe('problems', () => {
  it('come all at once, with the key that was meant', () => {
    const error = failure({
      zero_optimisation: { stage: 1 },
      gradient_cliping: 1,
      zero_optimization: { stge: 2, reduce_bucket_size: '5e8' },
      optimizer: { type: 'AdmaW', params: {} },
      scheduler: { type: 'WarmupLR', params: { warmup_type: 'linaer' } },
      fp16: { enabled: 'yes' },
    });
    expect(error.code).toBe('CONFIG_INVALID');
    const nearest = Object.fromEntries(problemsOf(error).map((p) => [p.path, p.nearest]));
    expect(nearest).toEqual({
      zero_optimisation: 'zero_optimization',
      gradient_cliping: 'gradient_clipping',
      'zero_optimization.stge': 'zero_optimization.stage',
      'zero_optimization.reduce_bucket_size': undefined,
      'optimizer.type': 'AdamW',
      'scheduler.params.warmup_type': 'linear',
      'fp16.enabled': undefined,
    });
    expect(error.message).toContain(
      'zero_optimization.reduce_bucket_size: got "5e8", expected a whole number above 0',
    );
  });

  it('point to settings that live elsewhere', () => {
    const error = failure({ optimizer: { type: 'Adam', params: { max_grad_norm: 1 } } });
    expect(problemsOf(error)[0]!.nearest).toBe('gradient_clipping');
  });

  it.each([
    ['zero_optimization.stage', { zero_optimization: { stage: 4 } }, '0, 1, 2 or 3'],
    [
      'optimizer.params.betas',
      { optimizer: { type: 'Adam', params: { betas: [0.9, 1] } } },
      'two numbers',
    ],
    ['zero_optimization', { zero_optimization: true }, 'a section'],
    ['zero_optimization.stage', { zero_optimization: { stage: -1 } }, '0, 1, 2 or 3'],
    ...[
      'param_persistence_threshold',
      'model_persistence_threshold',
      'prefetch_bucket_size',
      'max_live_parameters',
      'max_reuse_distance',
    ].map((name): [string, Record<string, unknown>, string] => [
      `zero_optimization.stage3_${name}`,
      { zero_optimization: { stage: 3, [`stage3_${name}`]: -1 } },
      '0 or more',
    ]),
    ['optimizer', { optimizer: 'Adam' }, '{ type, params }'],
    ['steps_per_print', { steps_per_print: 0.5 }, 'above 0'],
    ['gradient_clipping', { gradient_clipping: -1 }, '0 or more'],
  ])('%s', (path, config, expected) => {
    const [problem, ...others] = problemsOf(failure(config));
    expect(others).toEqual([]);
    expect(problem).toMatchObject({ kind: 'value', path });
    expect(problem!.expected).toContain(expected);
  });
});

describe('what is not available yet', () => {
  it.each([
    ['zero_optimization.mics_shard_size', { zero_optimization: { stage: 3, mics_shard_size: 2 } }],
    ['fp16.auto_cast', { fp16: { enabled: true, auto_cast: true } }],
    ['bf16.bf16_optimizer_states', { bf16: { enabled: true, bf16_optimizer_states: true } }],
    ['optimizer.type', { optimizer: { type: 'Muon' } }],
    [
      'compression_training',
      { compression_training: { weight_quantization: { shared_parameters: { enabled: true } } } },
    ],
    ['wandb.enabled', { wandb: { enabled: true } }],
    ['amp', { amp: { enabled: true } }],
  ])('%s is refused by name', (path, config) => {
    const error = failure(config);
    expect(error.code).toBe('NOT_AVAILABLE_YET');
    expect(problemsOf(error).map((problem) => problem.path)).toEqual([path]);
  });

  it('names what there is instead', () => {
    for (const service of ['wandb', 'comet']) {
      expect(failure({ [service]: { enabled: true } }).message).toContain(
        `${service}.enabled: is not available yet: use tensorboard or csv_monitor, which write files`,
      );
    }
  });

  it('is accepted while off or at its default', () => {
    const config = resolve({
      fp16: { enabled: false, initial_scale_power: 12, auto_cast: true },
      progressive_layer_drop: { enabled: false, theta: 0.5 },
      compression_training: { weight_quantization: { shared_parameters: { enabled: false } } },
      elasticity: { enabled: false },
      zero_optimization: {
        stage: 2,
        offload_optimizer: { device: 'none' },
        mics_hierarchical_params_gather: false,
      },
      wandb: { enabled: false, project: 'p' },
    });
    expect(config.provenance.warnings).toEqual([]);
  });

  it('checks types even where nothing is switched on', () => {
    expect(problemsOf(failure({ fp16: { enabled: false, hysteresis: 'two' } }))).toHaveLength(1);
  });

  it('warns once about keys that DeepSpeed ignores too', () => {
    const { warnings } = resolve({ aio: { thread_count: 4 }, disable_allgather: true }).provenance;
    expect(warnings.map((warning) => warning.split(' ')[0])).toEqual(
      expect.arrayContaining(['aio.thread_count', 'disable_allgather']),
    );
    expect(warnings).toHaveLength(2);
  });
});

describe('"auto"', () => {
  const given = { perDeviceTrainBatchSize: 4, learningRate: 3e-4 };
  const defaults = {
    gradientAccumulationSteps: 1,
    maxGradNorm: 1,
    weightDecay: 0,
    learningRate: 5e-5,
    fp16: false,
    bf16: false,
  };
  const autos = trainerAutos(given, defaults, { worldSize: 2, totalSteps: 100, hiddenSize: 64 });
  const hugging = {
    train_batch_size: 'auto',
    train_micro_batch_size_per_gpu: 'auto',
    gradient_accumulation_steps: 'auto',
    gradient_clipping: 'auto',
    fp16: { enabled: 'auto', loss_scale_window: 500 },
    bf16: { enabled: 'auto' },
    optimizer: { type: 'AdamW', params: { lr: 'auto', weight_decay: 'auto' } },
    scheduler: {
      type: 'WarmupDecayLR',
      params: { total_num_steps: 'auto', warmup_min_lr: 'auto', warmup_max_lr: 'auto' },
    },
    zero_optimization: {
      stage: 2,
      reduce_bucket_size: 'auto',
      stage3_prefetch_bucket_size: 'auto',
      stage3_param_persistence_threshold: 'auto',
    },
  };

  it('takes the values of the Trainer', () => {
    const config = resolve(hugging, { autos });
    expect(config).toMatchObject({
      train_batch_size: 8,
      train_micro_batch_size_per_gpu: 4,
      gradient_accumulation_steps: 1,
      optimizer: { params: { lr: 3e-4, weight_decay: 0 } },
      scheduler: { params: { total_num_steps: 100, warmup_max_lr: 3e-4 } },
      zero_optimization: {
        reduce_bucket_size: 64 * 64,
        stage3_prefetch_bucket_size: 3686,
        stage3_param_persistence_threshold: 640,
      },
    });
    expect(config.provenance.origins['optimizer.params.lr']).toBe('auto');
  });

  it('that nobody fills is an error naming who would', () => {
    const error = failure({
      train_batch_size: 8,
      gradient_clipping: 'auto',
      steps_per_print: 'auto',
    });
    expect(error.message).toContain(
      'gradient_clipping: "auto" was not replaced (filled by the Trainer argument maxGradNorm)',
    );
    expect(problemsOf(error).map((p) => p.path)).toEqual(['gradient_clipping', 'steps_per_print']);
  });

  it('collects values that contradict arguments the user gave, and only those', () => {
    const error = failure(
      {
        train_micro_batch_size_per_gpu: 2,
        optimizer: { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } },
      },
      { autos },
    );
    expect(problemsOf(error).map((p) => [p.kind, p.path])).toEqual([
      ['mismatch', 'train_micro_batch_size_per_gpu'],
      ['mismatch', 'optimizer.params.lr'],
    ]);
    expect(error.message).toContain('the config says 0.001, the argument learningRate 0.0003');
  });
});

describe('rules across sections', () => {
  it.each([
    ['prescale_gradients', { zero_optimization: { stage: 2 }, prescale_gradients: true }],
    ['prescale_gradients', { zero_optimization: { stage: 3 }, prescale_gradients: true }],
    [
      'zero_optimization.offload_param.device',
      { zero_optimization: { stage: 2, offload_param: { device: 'cpu' } } },
    ],
    [
      'zero_optimization.offload_optimizer.device',
      { zero_optimization: { stage: 0, offload_optimizer: { device: 'cpu' } } },
    ],
    [
      'zero_optimization.offload_optimizer.device',
      { zero_optimization: { stage: 2, offload_optimizer: { device: 'nvme', nvme_path: '/' } } },
    ],
    [
      'zero_optimization.offload_optimizer.nvme_path',
      { zero_optimization: { stage: 3, offload_optimizer: { device: 'nvme' } } },
    ],
    [
      'zero_optimization.offload_param.nvme_path',
      { zero_optimization: { stage: 3, offload_param: { device: 'nvme', nvme_path: '' } } },
    ],
    ['aio.block_size', { aio: { block_size: 1000 } }],
    [
      'zero_optimization.zero_quantized_weights',
      { zero_optimization: { stage: 2, zero_quantized_weights: true } },
    ],
    [
      'zero_optimization.zero_quantized_nontrainable_weights',
      { zero_optimization: { stage: 1, zero_quantized_nontrainable_weights: true } },
    ],
    [
      'zero_optimization.zero_hpz_partition_size',
      { zero_optimization: { stage: 0, zero_hpz_partition_size: 4 } },
    ],
    [
      'zero_optimization.zero_quantized_gradients',
      { zero_optimization: { stage: 3, zero_quantized_gradients: true, reduce_scatter: false } },
    ],
    [
      'zero_optimization.zero_hpz_partition_size',
      {
        zero_optimization: {
          stage: 3,
          zero_hpz_partition_size: 2,
          offload_param: { device: 'nvme', nvme_path: '/' },
        },
      },
    ],
    [
      'gradient_predivide_factor',
      { zero_optimization: { stage: 2 }, gradient_predivide_factor: 2 },
    ],
    [
      'scheduler.params.total_num_steps',
      { optimizer: { type: 'Adam' }, scheduler: { type: 'WarmupCosineLR' } },
    ],
    [
      'scheduler.type',
      { scheduler: { type: 'WarmupCosineLR', params: { total_num_steps: 5000 } } },
    ],
    ['scheduler.params.warmup_max_lr', { scheduler: { type: 'WarmupLR' } }],
    [
      'scheduler.params.cycle_max_lr',
      { scheduler: { type: 'OneCycle', params: { cycle_min_lr: 0 } } },
    ],
  ])('%s', (path, config) => {
    expect(problemsOf(failure(config)).map((p) => [p.kind, p.path])).toEqual([['rule', path]]);
  });

  it('fp16 and bf16 exclude each other', () => {
    const error = failure({ fp16: { enabled: true }, bf16: { enabled: true } });
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.message).toContain('excludes bf16.enabled');
  });

  it('allows what DeepSpeed allows', () => {
    const config = { prescale_gradients: true, gradient_predivide_factor: 2 };
    expect(() => resolve({ ...config, zero_optimization: { stage: 1 } })).not.toThrow();
    expect(() =>
      resolve({ ...config, zero_optimization: { stage: 2, reduce_scatter: false } }),
    ).not.toThrow();
    const warmup = { scheduler: { type: 'WarmupLR' } };
    expect(() => resolve(warmup, { hostLearningRate: 1e-3 })).not.toThrow();
  });

  it('warns about a warm-up that never ends and momentum that cannot cycle', () => {
    const warmup = resolve({
      scheduler: { type: 'WarmupDecayLR', params: { total_num_steps: 10 } },
    });
    expect(warmup.provenance.warnings[0]).toContain('ends inside the warm-up');
    const cycle = { type: 'OneCycle', params: { cycle_min_lr: 0.1, cycle_max_lr: 1 } };
    const sgd = resolve({ scheduler: cycle, optimizer: { type: 'SGD' } });
    expect(sgd.provenance.warnings[0]).toContain('SGD has no betas');
  });
});

it('gives the engine one record per optimizer, Adam meaning AdamW unless told otherwise', () => {
  const settings = (type: string, params: object) =>
    optimizerSettings(resolve({ optimizer: { type, params } }).optimizer);
  expect(settings('Adam', {})?.kind).toBe('adamw');
  expect(settings('Adam', { adam_w_mode: false })?.kind).toBe('adam');
  expect(settings('SGD', { momentum: 0.9, nesterov: true })).toMatchObject({
    kind: 'sgd',
    beta1: 0.9,
    nesterov: true,
  });
  expect(settings('lion', { betas: [0.95, 0.98] })).toMatchObject({
    kind: 'lion',
    beta1: 0.95,
    beta2: 0.98,
  });
  expect(settings('Adagrad', {})).toMatchObject({ kind: 'adagrad', lr: 0.01, eps: 1e-10 });
  expect(optimizerSettings(null)).toBeNull();
});

describe('sections of third parties', () => {
  const definition = {
    key: 'test_sparsity',
    schema: z.strictObject({ density: z.number().max(1) }),
  };
  const sparsity = defineSection(definition);

  it('are checked by their own schema and read through their handle', () => {
    expect(sparsity.read(resolve({ test_sparsity: { density: 0.5 } }))).toEqual({ density: 0.5 });
    expect(sparsity.read(resolve({}))).toBeUndefined();
    const error = failure({ test_sparsity: { density: 2, dense: true } });
    expect(
      problemsOf(error)
        .map((p) => p.path)
        .sort(),
    ).toEqual(['test_sparsity.dense', 'test_sparsity.density']);
  });

  it('cannot take a key that exists', () => {
    expect(defineSection(definition).key).toBe('test_sparsity');
    for (const key of ['optimizer', 'test_sparsity'])
      expect(() => defineSection({ key, schema: z.unknown() })).toThrowError(
        expect.objectContaining({ code: 'SECTION_TAKEN' }),
      );
  });
});

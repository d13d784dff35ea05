/**
 * Every key that the config table calls available does something: changing it alone changes how a run
 * trains, what it sends, keeps, prints or writes. What exactly is the matter of the rooms' own tests.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readConfig, readSparseAttention } from '../config/index.ts';
import { listKeys } from '../config/list-keys.ts';
import { sparsityConfig } from '../strategies/sparse-attention/sparsity-config.ts';
import { parseArguments } from './arguments.ts';
import { dropsLast, makeRecipe } from './recipe.ts';
import {
  type RankResult,
  removeFolders,
  temporaryFolder,
  train,
  trainRanks,
} from './testing/train-ranks.ts';

afterAll(removeFolders);

const worldSize = 2;
const batch = { train_micro_batch_size_per_gpu: 4 };

/** How a config trains, as data. */
function recipeOf(config: object): unknown {
  const given = { outputDir: '.' };
  const args = parseArguments(given);
  const raw = readConfig({ ...batch, ...config });
  const recipe = makeRecipe({ raw, given, args, worldSize, totalSteps: () => 1000 });
  const { microBatchSize, microBatches, optimizer, precision, schedule } = recipe;
  const values = Array.from({ length: 60 }, (_, index) => schedule.at(index * index * 3));
  const dropLast = dropsLast(raw, args);
  return { microBatchSize, microBatches, optimizer, precision, values, dropLast };
}

const optimizer = (type: string, params: object) => ({ optimizer: { type, params } });
const scheduler = (type: string, params: object) => ({ scheduler: { type, params } });

/** Key, a config, and the same config with that key changed. */
const recipeKeys: [key: string, without: object, changed: object][] = [
  ['train_batch_size', {}, { train_batch_size: 16 }],
  ['train_micro_batch_size_per_gpu', {}, { train_micro_batch_size_per_gpu: 2 }],
  ['gradient_accumulation_steps', {}, { gradient_accumulation_steps: 3 }],
  ['dataloader_drop_last', {}, { dataloader_drop_last: true }],
  ['gradient_clipping', {}, { gradient_clipping: 0.5 }],
  ['communication_data_type', {}, { communication_data_type: 'bf16' }],
  ['bf16.enabled', {}, { bf16: { enabled: true } }],
  ['fp16.enabled', {}, { fp16: { enabled: true } }],
  [
    'bf16.check_grad_overflow',
    { bf16: { enabled: true } },
    { bf16: { enabled: true, check_grad_overflow: false } },
  ],
  ...Object.entries({
    loss_scale: 128,
    initial_scale_power: 8,
    loss_scale_window: 10,
    hysteresis: 4,
    consecutive_hysteresis: true,
    min_loss_scale: 2,
  }).map(([name, value]): [string, object, object] => [
    `fp16.${name}`,
    { fp16: { enabled: true } },
    { fp16: { enabled: true, [name]: value } },
  ]),
];

const adam = { lr: 0.5, betas: [0.5, 0.6], eps: 1e-3, weight_decay: 0.3, bias_correction: false };
const optimizerParams: Record<string, Record<string, unknown>> = {
  Adam: { ...adam, adam_w_mode: false },
  AdamW: adam,
  SGD: { lr: 0.5, momentum: 0.9, dampening: 0.5, weight_decay: 0.3, nesterov: true },
  Lion: { lr: 0.5, betas: [0.5, 0.6], weight_decay: 0.3 },
  Adagrad: { lr: 0.5, eps: 1e-3, weight_decay: 0.3 },
  Lamb: { ...adam, max_coeff: 3, min_coeff: 0.2 },
  OneBitAdam: adam,
  ZeroOneAdam: adam,
  OneBitLamb: {
    ...adam,
    max_coeff: 3,
    min_coeff: 0.2,
    coeff_beta: 0.5,
    factor_max: 3,
    factor_min: 0.7,
    factor_threshold: 0.2,
  },
};
for (const [type, params] of Object.entries(optimizerParams)) {
  const other = type === 'SGD' ? 'Lion' : 'SGD';
  recipeKeys.push([`optimizer.type = ${type}`, optimizer(other, {}), optimizer(type, {})]);
  for (const [name, value] of Object.entries(params))
    recipeKeys.push([
      `optimizer.params.${name} (${type})`,
      optimizer(type, {}),
      optimizer(type, { [name]: value }),
    ]);
}

const warmup = { warmup_num_steps: 100 };
const total = { ...warmup, total_num_steps: 5000 };
const cycle = {
  cycle_min_lr: 0.01,
  cycle_max_lr: 0.1,
  decay_step_size: 100,
  decay_lr_rate: 0.1,
  decay_mom_rate: 0.1,
};
const schedulerParams: Record<string, [base: object, changes: Record<string, unknown>]> = {
  WarmupLR: [
    warmup,
    {
      warmup_min_lr: 0.01,
      warmup_max_lr: 0.2,
      warmup_num_steps: 500,
      warmup_type: 'linear',
    },
  ],
  WarmupDecayLR: [
    total,
    {
      total_num_steps: 9000,
      warmup_min_lr: 0.01,
      warmup_max_lr: 0.2,
      warmup_num_steps: 500,
      warmup_type: 'linear',
    },
  ],
  WarmupCosineLR: [
    total,
    {
      total_num_steps: 9000,
      warmup_min_ratio: 0.3,
      warmup_num_steps: 500,
      cos_min_ratio: 0.2,
      warmup_type: 'linear',
    },
  ],
  LRRangeTest: [
    {},
    {
      lr_range_test_min_lr: 0.01,
      lr_range_test_step_size: 50,
      lr_range_test_step_rate: 3,
      lr_range_test_staircase: true,
    },
  ],
  OneCycle: [
    cycle,
    {
      cycle_min_lr: 0.02,
      cycle_max_lr: 0.2,
      decay_lr_rate: 0.5,
      cycle_first_step_size: 500,
      cycle_second_step_size: 700,
      cycle_first_stair_count: 4,
      cycle_second_stair_count: 5,
      decay_step_size: 50,
      cycle_momentum: false,
      cycle_min_mom: 0.5,
      cycle_max_mom: 0.95,
      decay_mom_rate: 0.3,
    },
  ],
};
for (const [type, [base, changes]] of Object.entries(schedulerParams)) {
  const other = { ...optimizer('AdamW', { lr: 0.1 }) };
  recipeKeys.push([`scheduler.type = ${type}`, other, { ...other, ...scheduler(type, base) }]);
  for (const [name, value] of Object.entries(changes))
    recipeKeys.push([
      `scheduler.params.${name} (${type})`,
      { ...other, ...scheduler(type, base) },
      { ...other, ...scheduler(type, { ...base, [name]: value }) },
    ]);
}

/** Ranks as on machines of their own: on one of them less travels. */
const run = (deepspeed: object, rest: object = {}) =>
  train({ worldSize, apart: true, args: { ...rest, deepspeed: { ...batch, ...deepspeed } } });

/** Many keys are changed from the same config. */
const known = new Map<string, Promise<RankResult>>();
const runOnce = (deepspeed: object) => {
  const key = JSON.stringify(deepspeed);
  const result = known.get(key) ?? run(deepspeed);
  known.set(key, result);
  return result;
};

const zero = (keys: object) => ({ zero_optimization: { stage: 1, ...keys } });

const calls = ({ stats }: RankResult, operation: string) =>
  stats
    .filter((entry) => entry.operation === operation)
    .reduce((sum, entry) => sum + entry.calls, 0);

const layerDrop = { enabled: true, theta: 0.1, gamma: 20 };

/** Keys of `sparse_attention`: what a head computes of 32 blocks. */
const layoutKeys: [key: string, without: object, changed: object][] = [
  ['mode', {}, { mode: 'bigbird' }],
  ['block', {}, { block: 32 }],
  [
    'different_layout_per_head',
    { mode: 'bigbird', num_random_blocks: 1 },
    { mode: 'bigbird', num_random_blocks: 1, different_layout_per_head: true },
  ],
  ['num_local_blocks', {}, { num_local_blocks: 8 }],
  ['num_global_blocks', {}, { num_global_blocks: 2 }],
  ['attention', {}, { attention: 'unidirectional' }],
  ['horizontal_global_attention', {}, { horizontal_global_attention: true }],
  [
    'num_different_global_patterns',
    { different_layout_per_head: true },
    { different_layout_per_head: true, num_different_global_patterns: 2 },
  ],
  ['num_random_blocks', { mode: 'variable' }, { mode: 'variable', num_random_blocks: 2 }],
  ['local_window_blocks', { mode: 'variable' }, { mode: 'variable', local_window_blocks: [1, 2] }],
  ['global_block_indices', { mode: 'variable' }, { mode: 'variable', global_block_indices: [3] }],
  [
    'global_block_end_indices',
    { mode: 'variable' },
    { mode: 'variable', global_block_end_indices: [2] },
  ],
  ['num_sliding_window_blocks', { mode: 'local' }, { mode: 'local', num_sliding_window_blocks: 5 }],
  [
    'seed',
    { mode: 'bigbird', num_random_blocks: 1 },
    { mode: 'bigbird', num_random_blocks: 1, seed: 5 },
  ],
];

function layoutOf(section: object): unknown {
  const values = readSparseAttention(readConfig({ sparse_attention: section }))!;
  const { heads, block } = sparsityConfig(values, 3).makeLayout(512);
  return [block, heads.map(String)];
}

/** Stage 3 at its leanest. */
const gathersOneSegment = {
  stage: 3,
  stage3_param_persistence_threshold: 0,
  stage3_prefetch_bucket_size: 0,
  stage3_max_reuse_distance: 0,
};

const swapFolder = temporaryFolder();
const nvme = { device: 'nvme', nvme_path: swapFolder, buffer_count: 6 };

/** Stage 3 with optimizer states, or parameters, on disk: several sub-groups a rank. */
const offloads = (
  states: object,
  parameters: object = {},
  aio: object = {},
  zeroKeys: object = {},
) => ({
  aio: { block_size: 4096, ...aio },
  ...zero({
    ...gathersOneSegment,
    sub_group_size: 2048,
    ...(states && { offload_optimizer: { ...nvme, ...states } }),
    offload_param: parameters,
    ...zeroKeys,
  }),
});

const onDisk: [key: string, observe: (run: RankResult) => unknown, object, object][] = [
  [
    'zero_optimization.offload_optimizer.device',
    ({ memory }) => memory.current.optimizer,
    offloads({ device: 'none' }),
    offloads({}),
  ],
  [
    'zero_optimization.offload_param.device',
    ({ memory }) => memory.current.parameters,
    offloads({ device: 'none' }),
    offloads({ device: 'none' }, { ...nvme, buffer_count: 5, max_in_cpu: 0 }),
  ],
  [
    'zero_optimization.offload_param.max_in_cpu',
    ({ memory }) => memory.current.parameters,
    offloads({ device: 'none' }, { device: 'nvme', nvme_path: swapFolder, max_in_cpu: 0 }),
    offloads({ device: 'none' }, { device: 'nvme', nvme_path: swapFolder, max_in_cpu: 4096 }),
  ],
  [
    'zero_optimization.offload_optimizer.ratio',
    ({ memory }) => memory.current.optimizer,
    offloads({}),
    offloads({ ratio: 0.25 }),
  ],
  [
    'zero_optimization.offload_optimizer.buffer_count',
    ({ memory }) => memory.current.io,
    offloads({}),
    offloads({ buffer_count: 3 }),
  ],
  [
    'zero_optimization.sub_group_size',
    ({ swapped }) => swapped.waits.length,
    offloads({}),
    offloads({}, {}, {}, { sub_group_size: 1e9 }),
  ],
  ...['pipeline_read', 'pipeline_write'].map((name): (typeof onDisk)[number] => [
    `zero_optimization.offload_optimizer.${name}`,
    ({ swapped }) => swapped.waits,
    offloads({}),
    offloads({ [name]: true }),
  ]),
  ...(
    [
      ['block_size', 8192, 'requests'],
      ['queue_depth', 1, 'mostUnderWay'],
      ['intra_op_parallelism', 64, 'mostUnderWay'],
      ['single_submit', true, 'submissions'],
      ['overlap_events', false, 'submissions'],
    ] as const
  ).map(([name, value, what]): (typeof onDisk)[number] => [
    `aio.${name}`,
    ({ swapped }) => swapped.stats[what],
    offloads({}, {}, { queue_depth: 2 }),
    offloads({}, {}, { queue_depth: 2, [name]: value }),
  ]),
];

/** Keys that only a run shows: what is observed, without and with the change. */
const runKeys: [key: string, observe: (run: RankResult) => unknown, object, object][] = [
  [
    'zero_optimization.stage',
    ({ memory }) => memory.current.optimizer,
    zero({ stage: 0 }),
    zero({}),
  ],
  [
    'zero_optimization.reduce_scatter',
    (result) => calls(result, 'reduceScatter'),
    zero({}),
    zero({ reduce_scatter: false }),
  ],
  [
    'zero_optimization.reduce_bucket_size',
    (result) => calls(result, 'reduceScatter'),
    zero({}),
    zero({ reduce_bucket_size: 500 }),
  ],
  [
    'zero_optimization.allgather_bucket_size',
    (result) => calls(result, 'allGather'),
    zero({}),
    zero({ allgather_bucket_size: 500 }),
  ],
  [
    'zero_optimization.overlap_comm',
    ({ memory }) => memory.current.window,
    zero({ stage: 2, reduce_bucket_size: 500 }),
    zero({ stage: 2, reduce_bucket_size: 500, overlap_comm: false }),
  ],
  [
    'zero_optimization.reduce_at_boundary',
    (result) => [calls(result, 'reduceScatter'), result.memory.current.gradients],
    { ...zero({ stage: 2 }), gradient_accumulation_steps: 2 },
    { ...zero({ stage: 2, reduce_at_boundary: true }), gradient_accumulation_steps: 2 },
  ],
  ...[
    ['param_persistence_threshold', 0, 64, {}],
    ['model_persistence_threshold', 0, 200, { stage3_param_persistence_threshold: 64 }],
    ['prefetch_bucket_size', 0, 2000, {}],
    ['max_reuse_distance', 0, 1, {}],
    ['max_live_parameters', 0, 5000, { stage3_prefetch_bucket_size: 2000 }],
  ].map(([name, value, other, rest]): (typeof runKeys)[number] => [
    `zero_optimization.stage3_${name}`,
    (result) => [calls(result, 'allGather'), result.memory.current.window],
    zero({ ...gathersOneSegment, ...(rest as object), [`stage3_${name}`]: value }),
    zero({ ...gathersOneSegment, ...(rest as object), [`stage3_${name}`]: other }),
  ]),
  [
    'zero_optimization.zero_quantized_weights',
    ({ metrics }) => metrics[0]!.loss,
    zero(gathersOneSegment),
    zero({ ...gathersOneSegment, zero_quantized_weights: true }),
  ],
  [
    'zero_optimization.zero_quantized_gradients',
    (result) => [calls(result, 'reduceScatter'), calls(result, 'send')],
    zero(gathersOneSegment),
    zero({ ...gathersOneSegment, zero_quantized_gradients: true }),
  ],
  [
    'zero_optimization.zero_hpz_partition_size',
    ({ memory }) => memory.current.parameters,
    zero(gathersOneSegment),
    zero({ ...gathersOneSegment, zero_hpz_partition_size: 2 }),
  ],
  [
    'activation_checkpointing.number_checkpoints',
    ({ memory }) => memory.current.activations,
    {},
    { activation_checkpointing: { number_checkpoints: 2 } },
  ],
  ...Object.entries({ enabled: false, theta: 1, gamma: 0 }).map(
    ([name, value]): (typeof runKeys)[number] => [
      `progressive_layer_drop.${name}`,
      ({ metrics }) => metrics.map(({ loss }) => loss),
      { progressive_layer_drop: layerDrop },
      { progressive_layer_drop: { ...layerDrop, [name]: value } },
    ],
  ),
  ...Object.entries({ type: 'topk', block_size: 8, start_step: 2 }).map(
    ([name, value]): (typeof runKeys)[number] => [
      `compression.${name}`,
      ({ gradientPeaks }) => gradientPeaks,
      { compression: { type: 'int8' } },
      { compression: { type: 'int8', [name]: value } },
    ],
  ),
  [
    'compression.ratio',
    ({ gradientPeaks }) => gradientPeaks,
    { compression: { type: 'topk' } },
    { compression: { type: 'topk', ratio: 0.2 } },
  ],
  [
    'compression.warmup_steps',
    ({ gradientPeaks }) => gradientPeaks,
    { compression: { type: 'topk' } },
    { compression: { type: 'topk', warmup_steps: 2 } },
  ],
  [
    'compression.rank',
    ({ gradientPeaks }) => gradientPeaks,
    { compression: { type: 'powersgd' } },
    { compression: { type: 'powersgd', rank: 1 } },
  ],
  ['prescale_gradients', ({ gradientPeaks }) => gradientPeaks[0], {}, { prescale_gradients: true }],
  [
    'gradient_predivide_factor',
    ({ gradientPeaks }) => gradientPeaks[0],
    {},
    { gradient_predivide_factor: 4 },
  ],
];

it.each(recipeKeys)('%s changes how a run trains', (_key, without, changed) => {
  expect(recipeOf(changed)).not.toEqual(recipeOf(without));
});

it.each(layoutKeys)('sparse_attention.%s changes the layout', (_key, without, changed) => {
  expect(layoutOf(changed)).not.toEqual(layoutOf(without));
});

it.each([...runKeys, ...onDisk])(
  '%s changes what a run does',
  async (_key, observe, without, changed) => {
    expect(observe(await run(changed))).not.toEqual(observe(await runOnce(without)));
  },
);

describe('reports', () => {
  it('says nothing but the summary that was not asked for', async () => {
    const { lines } = await run({});
    const summary = /^(time|speed|loss|memory|files| {2}) {2}/;
    expect(lines.filter((line) => !summary.test(line))).toEqual([]);
  });

  it('prints and writes what the keys ask for, the trace of the first steps beside it', async () => {
    const folder = temporaryFolder();
    const monitor = { enabled: true, output_path: folder };
    const { lines } = await run(
      {
        steps_per_print: 2,
        wall_clock_breakdown: true,
        dump_state: true,
        comms_logger: { enabled: true, prof_all: false, prof_ops: ['all_reduce'] },
        tensorboard: { ...monitor, job_name: 'board' },
        csv_monitor: { ...monitor, job_name: 'table' },
        zero_optimization: { stage: 1 },
      },
      { maxSteps: 4, traceSteps: 3, outputDir: folder },
    );
    const text = lines.join('\n');
    expect(lines[0]).toBe('effective config:');
    expect(text).toMatch(/rank 1 owns \[\d+, \+\d+\)/);
    expect(text).toMatch(/transformer\.wte\.weight \[61, 16\] at/);
    expect(lines.filter((line) => line.startsWith('step='))).toHaveLength(2);
    expect(lines.filter((line) => /forward: .*backward: .*optimizer: /.test(line))).toHaveLength(2);
    expect(lines).toContain('allReduce');
    expect(lines).not.toContain('reduceScatter');
    expect(existsSync(join(folder, 'board'))).toBe(true);
    const forward = 'Train_Samples_elapsed_time_ms_forward.csv';
    expect(
      readFileSync(join(folder, 'table', forward), 'utf8')
        .trim()
        .split('\n'),
    ).toHaveLength(3);
    const files = readdirSync(join(folder, 'table')).filter((name) => name.startsWith('Comms_'));
    expect(files.length).toBeGreaterThan(0);
    expect(files.filter((name) => !name.startsWith('Comms_allReduce_'))).toEqual([]);
    const { traceEvents } = JSON.parse(readFileSync(join(folder, 'trace.json'), 'utf8'));
    const names = traceEvents.map(({ name }: { name: string }) => name);
    expect(names.filter((name: string) => name === 'optimizerStep')).toHaveLength(3 * worldSize);
  });

  it('counts all operations unless prof_ops chooses, and logSummary prints at any time', async () => {
    const all = await run({ ...zero({}), comms_logger: { enabled: true } });
    expect(all.lines).toEqual(expect.arrayContaining(['allReduce', 'reduceScatter', 'allGather']));
    const summary = await train({ worldSize, logSummary: true, args: { deepspeed: zero({}) } });
    expect(summary.lines).toEqual(expect.arrayContaining(['allReduce', 'reduceScatter']));
  });
});

it('checkpoint.tag_validation decides about ranks that save under different tags', async () => {
  const save = async (tag_validation: string) => {
    const outputDir = temporaryFolder();
    const ranks = await trainRanks({
      worldSize,
      saveAs: ['zero', 'one'],
      args: { outputDir, maxSteps: 1, deepspeed: { ...batch, checkpoint: { tag_validation } } },
    });
    const [first, second] = [join(outputDir, 'zero'), join(outputDir, 'one')].map(existsSync);
    const warned = ranks.flatMap(({ warnings }) => warnings).filter((w) => w.includes('"one"'));
    return { codes: ranks.map(({ error }) => error?.code), first, second, warned: warned.length };
  };
  const saved = { codes: [undefined, undefined], first: true, second: false };
  expect(await save('Warn')).toEqual({ ...saved, warned: 1 });
  expect(await save('Ignore')).toEqual({ ...saved, warned: 0 });
  const codes = ['CHECKPOINT_TAG', 'CHECKPOINT_TAG'];
  expect(await save('Fail')).toEqual({ codes, first: false, second: false, warned: 0 });
});

it('proves every available key', () => {
  const reported = [
    ...['steps_per_print', 'wall_clock_breakdown', 'dump_state', 'checkpoint.tag_validation'],
    // In runtime.test.ts and cli/machines.test.ts.
    'comm_backend',
    // In strategies/sparse-attention/training.test.ts.
    'sparse_attention.strict',
    'sparse_attention.max_seq_length',
    // In integration-tests/tfjs.rules.test.ts.
    ...['verify_first_batch', 'exact_random', 'declared'].map((name) => `tfjs.${name}`),
    // In strategies/offload/offload.test.ts.
    ...['optimizer', 'param'].map((name) => `zero_optimization.offload_${name}.nvme_path`),
    // In strategies/zero/plus-plus.test.ts.
    'zero_optimization.zero_quantized_nontrainable_weights',
    // In strategies/one-bit/one-bit.test.ts.
    'optimizer.params.freeze_step (OneBitAdam)',
    'optimizer.params.freeze_step (OneBitLamb)',
    // In strategies/one-bit/zero-one.test.ts.
    ...['var_freeze_step', 'var_update_scaler', 'local_step_scaler', 'local_step_clipper'].map(
      (name) => `optimizer.params.${name} (ZeroOneAdam)`,
    ),
    ...['enabled', 'prof_all', 'prof_ops'].map((name) => `comms_logger.${name}`),
    ...['tensorboard', 'csv_monitor'].flatMap((section) =>
      ['enabled', 'output_path', 'job_name'].map((name) => `${section}.${name}`),
    ),
  ];
  const proved = [
    ...[...recipeKeys, ...runKeys, ...onDisk].map(([key]) => key),
    ...layoutKeys.map(([key]) => `sparse_attention.${key}`),
    ...reported,
  ];
  const available = listKeys().filter(({ status }) => status === 'available');
  expect(proved.sort()).toEqual(available.map(({ path }) => path).sort());
});

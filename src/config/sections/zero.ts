/** ZeRO: what is sharded over ranks, and how its communication is cut into buckets. */
import {
  accepted,
  available,
  block,
  flag,
  fraction,
  ignored,
  integer,
  key,
  limit,
  notYet,
  oneOf,
  positiveInteger,
  section,
  text,
  texts,
  wholeNumber,
} from '../key.ts';

const bySegments = 'parameters are gathered segment by segment, in the order of the graph';
const offloadOnly = 'used only with a device other than none';
const device = oneOf('none', 'cpu', 'nvme');
const replacedBy = (name: string) => `deprecated by DeepSpeed; use zero_optimization.${name}`;

const intoWindows = 'parameters are read straight into the memory that the model reads';

const offload = (what: string) => ({
  device: available(device, 'none', `Where ${what} live between uses; nvme needs stage 3.`, {
    note: 'cpu changes nothing: ranks run on the processor, whose memory is where everything is already',
  }),
  nvme_path: available(text, null, 'For nvme: an existing folder. Nothing is left in it.'),
  pin_memory: accepted(
    flag,
    true,
    'Lock the pages in memory.',
    'the system locks what direct I/O is moving',
  ),
});

export const zeroKeys = {
  zero_optimization: section('Sharding over ranks.', {
    stage: available(
      oneOf(0, 1, 2, 3),
      0,
      '0: nothing sharded; 1: optimizer states; 2: also gradients; 3: also parameters.',
    ),
    contiguous_gradients: accepted(
      flag,
      true,
      'Copy gradients into one buffer as they appear.',
      'gradients are produced in one buffer here',
    ),
    reduce_scatter: available(
      flag,
      true,
      'Reduce each bucket to the ranks that own it; false: all-reduce.',
    ),
    reduce_at_boundary: available(
      flag,
      false,
      'Stages 2 and 3 with accumulation: add micro batches up in whole gradients on each rank, and reduce them once, at the boundary.',
      {
        note: 'a key of deepspeed-js, not of DeepSpeed: the same bits as stages 0 and 1 and their communication, for 4 bytes of gradient an element instead of 4 / ranks',
      },
    ),
    reduce_bucket_size: available(positiveInteger, 5e8, 'Elements per gradient bucket.', {
      autoFrom: "the Trainer, as the square of the model's hidden size",
    }),
    allgather_bucket_size: available(
      positiveInteger,
      5e8,
      'Elements per bucket when updated parameters are gathered.',
    ),
    allgather_partitions: accepted(
      flag,
      true,
      'Gather updated parameters with all-gather instead of broadcasts.',
      'both give the same bytes; all-gather is always used',
    ),
    use_multi_rank_bucket_allreduce: accepted(
      flag,
      true,
      'Let one bucket hold gradients of several ranks.',
      'buckets are always cut by size, whoever owns their parts',
    ),
    overlap_comm: available(flag, null, 'Reduce buckets while backward goes on; null: yes.', {
      note: 'DeepSpeed reads null as no in stages 1 and 2; here sums run in rank order, so the result is the same either way',
    }),
    round_robin_gradients: accepted(
      flag,
      false,
      'Spread gradient copies over ranks when offloading.',
      'there are no such copies here',
    ),
    load_from_fp32_weights: key(
      'accepted',
      flag,
      true,
      'Restore fp32 master weights from the checkpoint, not from 16-bit weights.',
      { note: 'checkpoints hold the fp32 weights', later: [false] },
    ),
    elastic_checkpoint: accepted(
      flag,
      false,
      'Write checkpoints that load on another number of ranks.',
      'every checkpoint here does',
    ),
    ignore_unused_parameters: key(
      'accepted',
      flag,
      true,
      'Allow parameters that receive no gradient.',
      {
        note: 'the graph says which parameters it uses; the others keep their values',
        later: [false],
      },
    ),
    compute_grad_norm: accepted(
      flag,
      true,
      'Compute the gradient norm even without clipping.',
      'it is computed in the same pass as the overflow check',
    ),
    sub_group_size: available(
      wholeNumber,
      1e9,
      'Offloading to nvme: elements of a shard that are updated together, rounded up to 2048.',
      { note: 'without offloading the whole shard is updated at once, to the same bits' },
    ),
    stage3_prefetch_bucket_size: available(
      wholeNumber,
      5e7,
      'Stage 3: elements gathered before the segment that reads them is next.',
      { autoFrom: "the Trainer, as 0.9 times the square of the model's hidden size" },
    ),
    stage3_param_persistence_threshold: available(
      wholeNumber,
      1e5,
      'Stage 3: parameters up to this size stay whole on every rank.',
      { autoFrom: "the Trainer, as 10 times the model's hidden size" },
    ),
    stage3_model_persistence_threshold: available(
      limit,
      2 ** 63,
      'Stage 3: elements that may stay whole in all.',
    ),
    stage3_max_live_parameters: available(
      wholeNumber,
      1e9,
      'Stage 3: elements gathered at one time; what a segment reads is gathered in any case.',
    ),
    stage3_max_reuse_distance: available(
      wholeNumber,
      1e9,
      'Stage 3: a parameter that is read again before so many elements of others stays.',
    ),
    stage3_gather_16bit_weights_on_model_save: accepted(
      flag,
      false,
      'Gather whole weights when a model is saved.',
      'saveModel always gathers them on rank 0; checkpoints never do',
    ),
    stage3_gather_fp16_weights_on_model_save: ignored(
      flag,
      false,
      'Old name of stage3_gather_16bit_weights_on_model_save.',
      'deprecated by DeepSpeed',
    ),
    stage3_module_granularity_threshold: accepted(
      wholeNumber,
      0,
      'Fetch small modules whole.',
      bySegments,
    ),
    stage3_use_all_reduce_for_fetch_params: accepted(
      flag,
      false,
      'Gather by all-reduce.',
      'both give the same bytes; all-gather is always used',
    ),
    stage3_allgather_sequential: accepted(
      flag,
      false,
      'Gather one parameter at a time.',
      'neighbours that are read together are always gathered together',
    ),
    memory_efficient_linear: accepted(
      flag,
      true,
      'A linear layer that saves no gathered weight.',
      'backward gathers the weights again',
    ),
    legacy_stage1: key('never', flag, false, 'The first implementation of stage 1.', {
      note: 'there is one implementation here',
    }),
    parameter_alignment: accepted(
      flag,
      false,
      'Align each parameter inside the flat buffer.',
      'tensors in flat buffers are always aligned',
    ),
    override_module_apply: accepted(
      flag,
      true,
      'Patch torch Module.apply.',
      'there is no torch here',
    ),
    pipeline_loading_checkpoint: accepted(
      flag,
      false,
      'Load ranks one after another.',
      'each rank reads only its shard',
    ),
    log_trace_cache_warnings: accepted(
      flag,
      false,
      'Warn when the gather order changes.',
      'it never changes',
    ),
    enable_sanity_checks: accepted(
      flag,
      false,
      'Check invariants of stage 3.',
      'the order of gathers is decided once, from the graph',
    ),
    save_muon_momentum_buffer_in_memory: accepted(
      flag,
      false,
      'Keep the Muon momentum whole.',
      'Muon is not available yet',
    ),
    offload_param: section('Parameters outside device memory (stage 3).', {
      ...offload('parameters'),
      buffer_count: accepted(wholeNumber, 5, 'Buffers in the pool.', intoWindows),
      buffer_size: accepted(wholeNumber, 1e8, 'Elements per buffer.', intoWindows),
      max_in_cpu: available(
        wholeNumber,
        1e9,
        'Elements of the shard that stay in memory; those behind them go to nvme.',
      ),
    }),
    offload_optimizer: section('Optimizer states outside device memory.', {
      ...offload('optimizer states'),
      buffer_count: available(
        wholeNumber,
        4,
        "Buffers of a sub-group's length; one sub-group needs as many as it has tensors on nvme, a pipeline twice that.",
      ),
      pipeline_read: available(flag, false, 'Read the next sub-group while one is updated.'),
      pipeline_write: available(flag, false, 'Write a sub-group while the next is updated.'),
      fast_init: accepted(
        flag,
        false,
        'Quick first allocation.',
        'states begin as reserved space that reads as zeros; nothing is written at the start',
      ),
      ratio: available(fraction, 1, 'Share of the elements whose states are offloaded to nvme.'),
      super_offload: notYet(flag, false, 'The scheme for Grace-Hopper processors.'),
      cpuadam_cores_perc: accepted(fraction, 0.8, 'Share of the cores for Adam.', offloadOnly),
    }),
    zero_hpz_partition_size: available(
      positiveInteger,
      1,
      'ZeRO++, stage 3: so many neighbouring ranks keep what forward gathered among them, and backward gathers it there.',
    ),
    zero_quantized_weights: available(
      flag,
      false,
      'ZeRO++, stage 3: parameters are gathered in blocks of int8.',
    ),
    zero_quantized_nontrainable_weights: available(
      flag,
      false,
      'ZeRO++, stage 3: parameters that training does not change are gathered in blocks of int8.',
    ),
    zero_quantized_gradients: available(
      flag,
      false,
      'ZeRO++, stage 3: gradients travel to their owners in blocks of int4.',
    ),
    zeropp_loco_param: block('not yet', 'ZeRO++: error feedback of quantised gradients.'),
    mics_shard_size: notYet(integer, -1, 'MiCS: ranks that share one shard.'),
    mics_hierarchical_params_gather: notYet(flag, false, 'MiCS: gather in two steps.'),
    leaf_module: section('Modules that stage 3 gathers whole.', {
      classes: accepted(texts, null, 'By class; null: a built-in list.', bySegments),
      names: accepted(texts, null, 'By name.', bySegments),
      name_suffixes: accepted(texts, null, 'By the end of the name.', bySegments),
    }),
    zenflow: block('not yet', 'Asynchronous optimizer updates for offloading.'),
    cpu_offload: key('never', flag, null, 'Old name of offload_optimizer.', {
      note: replacedBy('offload_optimizer'),
    }),
    cpu_offload_param: key('never', flag, null, 'Old name of offload_param.', {
      note: replacedBy('offload_param'),
    }),
    cpu_offload_use_pin_memory: key('never', flag, null, 'Old name of pin_memory.', {
      note: replacedBy('offload_optimizer.pin_memory'),
    }),
  }),
  aio: section('Asynchronous file access of NVMe offload.', {
    block_size: available(positiveInteger, 1_048_576, 'Bytes per request, a multiple of 4096.'),
    queue_depth: available(positiveInteger, 8, 'Requests under way for each thread.'),
    intra_op_parallelism: available(positiveInteger, 1, 'Threads that share a transfer.'),
    thread_count: ignored(
      positiveInteger,
      1,
      'Old name of intra_op_parallelism.',
      "documented, and ignored by DeepSpeed's parser; write intra_op_parallelism",
    ),
    single_submit: available(flag, false, 'Hand requests to the system one by one.'),
    overlap_events: available(
      flag,
      true,
      'Replace a request when it ends; false: when all under way have.',
    ),
    use_gds: notYet(flag, false, 'NVIDIA GPUDirect Storage.'),
  }),
};

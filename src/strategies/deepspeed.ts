import type { DeepSpeedConfig } from '../config/index.ts';
import { DeepSpeedError } from '../errors.ts';
import { type Host, requireCapability } from '../hooks/index.ts';
import { applyCheckpoint } from './checkpoint/index.ts';
import { applyDumpState } from './dump-state.ts';
import type { StrategyContext } from './plugin.ts';
import { oneBitRecipe } from './one-bit/index.ts';
import { applyLayerDrop } from './progressive-layer-drop.ts';
import { applySparseAttention } from './sparse-attention/index.ts';
import { keepsWholeGradients } from './zero/estimate.ts';
import type { GatherLimits } from './zero/gather-plan.ts';
import { applyZero, type ZeroStage, type ZeroState } from './zero/index.ts';

/**
 * DeepSpeed's config as plugins, top to bottom in the order in which they apply. Checkpointing comes
 * after ZeRO, since it saves what ZeRO holds.
 */
export function applyDeepSpeed(context: StrategyContext): void {
  const config = context.config;
  if (!config)
    throw new DeepSpeedError('INTERNAL', 'internal: the deepspeed strategy has no config');
  if (config.activation_checkpointing.number_checkpoints !== null) {
    const key = 'activation_checkpointing.number_checkpoints';
    requireCapability(context.host, 'activationCheckpointing', key);
  }
  if (config.tfjs) requireTfjs(context.host);
  if (config.sparse_attention) applySparseAttention(context, config.sparse_attention);
  const { enabled: dropsLayers, theta, gamma } = config.progressive_layer_drop;
  if (dropsLayers) applyLayerDrop(context, { theta: theta!, gamma: gamma! });
  const oneBit = oneBitRecipe(config);
  const zero = applyZero(context, {
    stage: config.zero_optimization.stage as ZeroStage,
    wholeGradients: keepsWholeGradients(config),
    reduceBucketSize: config.zero_optimization.reduce_bucket_size,
    allgatherBucketSize: config.zero_optimization.allgather_bucket_size,
    overlap: overlaps(config, context.host),
    reduceScatter: config.zero_optimization.reduce_scatter,
    averaging: averagingOf(config, context.communicator.size),
    gather: gatherLimits(config),
    ...(dropsLayers && { skippable: context.host.skippable! }),
    ...(oneBit && { oneBit }),
  });
  applyCheckpoint(context, zero);
  if (config.dump_state) applyDumpState(context, config);
}

/** Its keys would do nothing elsewhere. */
function requireTfjs({ name }: Host): void {
  if (name === 'tfjs') return;
  throw new DeepSpeedError(
    'HOST_LACKS_CAPABILITY',
    `tfjs is about scripts that use TensorFlow.js; the ${name} host has no use for it`,
    { fix: 'Leave the section `tfjs` out of this config.', data: { host: name, key: 'tfjs' } },
  );
}

function gatherLimits({ zero_optimization: zero }: DeepSpeedConfig): GatherLimits {
  return {
    persistence: zero.stage3_param_persistence_threshold,
    persistentTotal: zero.stage3_model_persistence_threshold,
    live: zero.stage3_max_live_parameters,
    prefetch: zero.stage3_prefetch_bucket_size,
    reuse: zero.stage3_max_reuse_distance,
  };
}

const overlapKey = 'zero_optimization.overlap_comm';

/**
 * Buckets can leave during backward only where backward comes in pieces. A config that asks for it on
 * another host is refused; one that says nothing gets what the host can do.
 */
function overlaps(config: DeepSpeedConfig, host: Host): boolean {
  const asked = config.provenance.origins[overlapKey] !== 'default';
  if (!config.zero_optimization.overlap_comm) return false;
  if (asked) requireCapability(host, 'segments', overlapKey);
  return host.capabilities.has('segments');
}

/** Plain data parallelism: everything on every rank, gradients averaged while backward runs. */
export function applyDataParallel(context: StrategyContext): ZeroState {
  const zero = applyZero(context, {
    stage: 0,
    // PyTorch's DistributedDataParallel uses 25 MiB buckets; the same trade-off holds here.
    reduceBucketSize: (25 * 2 ** 20) / 4,
    allgatherBucketSize: Number.MAX_SAFE_INTEGER,
    overlap: context.host.capabilities.has('segments'),
    reduceScatter: false,
    averaging: 1,
  });
  applyCheckpoint(context, zero);
  return zero;
}

/**
 * What the loss is multiplied by before backward, and every reduced gradient divided by: where the
 * average over ranks is taken. The host normalises the loss by the tokens of the whole global batch, so
 * a plain sum of gradients is already the mean. `prescale_gradients` leaves it so; otherwise gradients
 * are W / gradient_predivide_factor larger while they are summed, as DeepSpeed's are.
 */
export function averagingOf(config: DeepSpeedConfig, worldSize: number): number {
  return config.prescale_gradients ? 1 : worldSize / config.gradient_predivide_factor;
}

import { DeepSpeedError } from '../errors.ts';
import { type Host, requireCapability } from '../hooks/index.ts';
import { applyCheckpoint } from './checkpoint/index.ts';
import { applyDumpState } from './dump-state.ts';
import type { StrategyContext } from './plugin.ts';
import { applyLayerDrop } from './progressive-layer-drop.ts';
import { applySparseAttention } from './sparse-attention/index.ts';
import { applyZero, type ZeroState } from './zero/index.ts';
import { dataParallelOptions, zeroOptions } from './zero/options.ts';

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
  const { host, communicator, sharesMemory } = context;
  const ranks = { worldSize: communicator.size, sharesMemory };
  const zero = applyZero(context, zeroOptions(config, host, ranks));
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

/** Plain data parallelism: everything on every rank, gradients averaged while backward runs. */
export function applyDataParallel(context: StrategyContext): ZeroState {
  const zero = applyZero(context, dataParallelOptions(context.host));
  applyCheckpoint(context, zero);
  return zero;
}

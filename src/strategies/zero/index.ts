import type { StrategyContext } from '../plugin.ts';
import { planBuckets } from '../buckets.ts';
import { type GradientReducer, ShardedGradient, WholeGradient } from './gradients.ts';
import { PartitionedOptimizer } from './optimizer.ts';

export type ZeroStage = 0 | 1 | 2;

export interface ZeroOptions {
  stage: ZeroStage;
  /** Elements. */
  reduceBucketSize: number;
  allgatherBucketSize: number;
  overlap: boolean;
  /** False: stage 1 and 2 reduce whole buckets on every rank, as DeepSpeed does then. */
  reduceScatter: boolean;
  /** What gradients are multiplied by while they are summed. */
  lossScale: number;
}

/** What other plugins need of ZeRO: the states to save. */
export interface ZeroState {
  readonly stage: ZeroStage;
  readonly optimizer: PartitionedOptimizer;
}

/**
 * ZeRO (Rajbhandari et al., 1910.02054) as policies over one shard table. Stage 0: every rank keeps
 * everything. Stage 1: each rank keeps and updates the optimizer states of its shard. Stage 2: its
 * shard of the gradient, too.
 */
export function applyZero(context: StrategyContext, options: ZeroOptions): ZeroState {
  const { host, engine, communicator, layout, claims, lifecycle, parameters } = context;
  const { rank, size: worldSize } = communicator;
  const segmentCount = host.segments.length;
  const reducer = {
    engine,
    layout,
    rank,
    worldSize,
    segmentCount,
    buckets: planBuckets(host.parameters, layout, segmentCount, options.reduceBucketSize),
    overlap: options.overlap,
    lossScale: options.lossScale,
  };
  const gradients: GradientReducer =
    options.stage === 2
      ? new ShardedGradient(reducer)
      : new WholeGradient(reducer, options.stage === 1 && options.reduceScatter);
  claims.claim('gradients', 'zero', gradients);
  const optimizer = new PartitionedOptimizer({
    engine,
    layout,
    rank,
    worldSize,
    parameters,
    gradients,
    recipe: context.optimizer,
    partitioned: options.stage >= 1,
    allgatherBucketSize: options.allgatherBucketSize,
    gradientScale: 1 / options.lossScale,
  });
  claims.claim('optimizerStep', 'zero', optimizer);
  const action = options.stage === 0 ? 'zero.allReduce' : 'zero.reduceScatter';
  lifecycle.tap('backward', 'reduce', action, (event) => gradients.produced(event));
  return { stage: options.stage, optimizer };
}

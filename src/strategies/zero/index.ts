import { requireCapability, takes16Bits } from '../../hooks/index.ts';
import { applyLossScale } from '../precision/loss-scale.ts';
import { createWeights } from '../precision/create-weights.ts';
import type { MemoryWeights, Weights } from '../precision/weights.ts';
import { GradientOnDisk } from '../offload/gradient-on-disk.ts';
import { Offload } from '../offload/offload.ts';
import { OffloadedOptimizer } from '../offload/optimizer.ts';
import type { Split } from '../offload/walk.ts';
import { SwappedUpdate } from '../offload/swapped-update.ts';
import { type CompressingOptimizer, createOneBit } from '../one-bit/index.ts';
import { GradientSums } from '../compression/index.ts';
import { BeingSaved } from '../being-saved.ts';
import type { StrategyContext } from '../plugin.ts';
import { type Bucket, bucketShards, planBuckets } from '../buckets.ts';
import { groupRanges } from '../../layout.ts';
import type { Work } from '../../native/contract.ts';
import type { HeldPart } from '../held.ts';
import type { LocalState } from '../local-state.ts';
import { gathersParameters } from './estimate.ts';
import { GradientInMemory, type GradientShard } from './gradient-shard.ts';
import {
  type GradientReducer,
  type ReducerOptions,
  ShardedGradient,
  WholeGradient,
} from './gradients.ts';
import { shardOfFrozen, storedFrozen } from './frozen-shard.ts';
import { FullWeights } from './full-weights.ts';
import { PartitionedOptimizer } from './optimizer.ts';
import { sentGradientType, type ZeroOptions } from './options.ts';
import { quantisedScatter } from './plus-plus.ts';
import { stateCount } from './recipe.ts';
import type { ShardOptimizer, ShardOptimizerOptions } from './shard-optimizer.ts';
import type { ZeroStage } from './stage.ts';
import { shardedWeights, shardInMemory, type ShardWeights } from './sharded-weights.ts';

/** What other plugins need of ZeRO: the states to save. */
export interface ZeroState {
  readonly stage: ZeroStage;
  readonly optimizer: ShardOptimizer;
  /** The weights to save and to load. */
  readonly weights: Weights;
  /** What training does not change, as this rank has it. */
  readonly frozen: readonly HeldPart[];
  /** Told by who saves, asked by who changes what is saved. */
  readonly beingSaved: BeingSaved;
  /** State of this rank alone, which means something at this world size only. */
  readonly local: readonly LocalState[];
}

/**
 * ZeRO (Rajbhandari et al., 1910.02054) as policies over one shard table. Stage 0: every rank keeps
 * everything. Stage 1: each rank keeps and updates the optimizer states of its shard. Stage 2: its
 * shard of the gradient, too, unless `wholeGradients` buys the bits and the communication of stage 1.
 * Stage 3: and of the parameters.
 */
export function applyZero(context: StrategyContext, options: ZeroOptions): ZeroState {
  const { host, engine, communicator, layout, claims, lifecycle, precision } = context;
  const { rank, size: worldSize } = communicator;
  const segmentCount = host.segments.length;
  const lossScale = applyLossScale(context, options.stage);
  const beingSaved = new BeingSaved();
  const reducer: ReducerOptions = {
    engine,
    layout,
    rank,
    worldSize,
    segmentCount,
    buckets: planBuckets(
      host.parameters,
      layout,
      segmentCount,
      options.reduceBucketSize,
      new Set(options.skippable),
    ),
    overlap: options.overlap,
    reduceScatter: options.stage > 0 && options.reduceScatter,
    gradientType: sentGradientType(options, precision),
    lossScale: () => options.averaging * lossScale.value,
    sends: (): boolean => oneBit?.keepsGradient !== true,
    compressed: (): GradientSums | null => (sums?.hasBegun ? sums : null),
  };
  const sums =
    options.compression && worldSize > 1
      ? new GradientSums(
          engine,
          { layout, buckets: reducer.buckets, beingSaved, step: () => optimizer.step },
          options.compression,
        )
      : null;
  if (options.plusPlus?.quantisedGradients && worldSize > 1) {
    reducer.scatter = quantisedScatter(engine, layout, reducer.buckets);
  }
  const offload = options.offload ? new Offload(context, options.offload) : null;
  const frozenShard = shardOfFrozen(context, options, offload);
  const gradients: GradientReducer =
    options.stage >= 2 && !options.wholeGradients
      ? new ShardedGradient(reducer, gradientShard(context, offload, reducer.buckets))
      : new WholeGradient(reducer);
  claims.claim('gradients', 'zero', gradients);
  const stepping = {
    engine,
    layout,
    rank,
    worldSize,
    gradients,
    recipe: context.optimizer,
    lossScale,
    skipsOverflow: precision.skipsOverflow,
    beingSaved,
  };
  const optimizer = offload
    ? offloadedOptimizer(context, options, { offload, frozenShard }, stepping)
    : new PartitionedOptimizer({
        ...stepping,
        weights: weightsOf(context, options, frozenShard),
        partitioned: options.stage >= 1,
      });
  const oneBit: CompressingOptimizer | null =
    options.oneBit === undefined || !(optimizer instanceof PartitionedOptimizer)
      ? null
      : createOneBit(options.oneBit, {
          engine,
          layout,
          worldSize,
          gradients,
          dense: optimizer,
          groups: context.optimizer.groups,
          maxNorm: context.optimizer.maxNorm,
          lossScale,
          skipsOverflow: precision.skipsOverflow,
          beingSaved,
        });
  claims.claim('optimizerStep', 'zero', oneBit ?? optimizer);
  const weights = oneBit?.weights ?? optimizer.weights;
  const frozen = () => storedFrozen(context, frozenShard);
  claims.claim('weights', 'zero', new FullWeights(context, weights, frozen));
  lifecycle.tap('parametersWritten', 'acquire', 'zero.adopt', async () => {
    const adopted = weights.adopt();
    if (adopted !== null) await engine.wait(adopted);
  });
  const action = !reducer.reduceScatter ? 'zero.allReduce' : 'zero.reduceScatter';
  lifecycle.tap('backward', 'reduce', action, (event) => gradients.produced(event));
  return {
    stage: options.stage,
    optimizer,
    weights,
    get frozen() {
      return frozen();
    },
    beingSaved,
    local: [...(oneBit?.local ?? []), ...(sums?.local ?? [])],
  };
}

/** One rank alone has nothing to gather: its stage 3 is stage 2. */
function weightsOf(
  context: StrategyContext,
  options: ZeroOptions,
  frozenShard: Split | null,
): MemoryWeights {
  const { engine, layout, communicator, precision, host } = context;
  const { rank, size: worldSize } = communicator;
  const { stage } = options;
  if (stage === 3) requireCapability(host, 'gatheredParameters', 'zero_optimization.stage 3');
  if (stage < 3 || worldSize === 1) {
    const { weights, parameters } = createWeights({
      engine,
      layout,
      rank,
      worldSize,
      get parameters() {
        return context.parameters;
      },
      takes16Bits: takes16Bits(host),
      updated: stage === 0 ? { offset: 0, count: layout.total } : layout.shards[rank]!,
      gatherSize: stage === 0 ? null : options.allgatherBucketSize,
      storage: precision.storage,
    });
    if (parameters) context.claims.claim('parameters', 'zero', parameters);
    return weights;
  }
  const { master, copy16 } = shardInMemory(context, options);
  return {
    ...gatheredWeights(
      context,
      options,
      { master: { head: master }, ...(copy16 && { copy16: { head: copy16 } }) },
      frozenShard,
      () => (copy16 ? engine.copy(master, copy16) : null),
    ),
    master,
    ...(copy16 && { copy16 }),
  };
}

/** Where this rank's sums go: to disk with the optimizer's states. */
function gradientShard(
  { engine, layout, communicator }: StrategyContext,
  offload: Offload | null,
  buckets: readonly Bucket[],
): GradientShard {
  const { rank } = communicator;
  const shard = layout.shards[rank]!;
  const tail = offload?.gradient();
  if (!tail) return new GradientInMemory(engine, shard.count);
  return new GradientOnDisk({
    engine,
    tail,
    parts: buckets.map((bucket) => bucketShards(bucket, layout)[rank]!),
    ranges: groupRanges(layout, shard),
  });
}

/** Stage 3 with a part of the shard on disk. */
function offloadedOptimizer(
  context: StrategyContext,
  options: ZeroOptions,
  { offload, frozenShard }: { offload: Offload; frozenShard: Split | null },
  stepping: ShardOptimizerOptions,
): OffloadedOptimizer {
  const { settings } = offload;
  const { host, engine, layout, communicator, precision, optimizer: recipe } = context;
  const { rank, size: worldSize } = communicator;
  requireCapability(host, 'gatheredParameters', 'zero_optimization.stage 3');
  const narrow = precision.storage !== 'float32';
  // As without offloading, a rank alone gathers nothing where the model's memory is the optimizer's.
  const alone = !gathersParameters({ stage: 3, offload: settings }, worldSize, narrow);
  const own = alone ? weightsOf(context, options, frozenShard) : null;
  const weights = own ? { master: { head: own.master } } : offload.weights(precision.storage);
  const states = offload.states(stateCount(recipe));
  const gradient = stepping.gradients.swapped;
  const swapped = new SwappedUpdate({
    engine,
    settings,
    tensors: { ...weights, states, ...(gradient && { gradient: gradient.split }) },
    count: layout.shards[rank]!.count,
    ranges: groupRanges(layout, layout.shards[rank]!),
  });
  return new OffloadedOptimizer({
    ...stepping,
    swapped,
    weights: own ?? gatheredWeights(context, options, weights, frozenShard, () => swapped.narrow()),
  });
}

/** Claims `parameters`, and `frozen` where it is sharded: they are gathered, segment by segment. */
function gatheredWeights(
  context: StrategyContext,
  options: ZeroOptions,
  shard: ShardWeights,
  frozenShard: Split | null,
  narrow: () => Work | null,
): Weights {
  const { claims, lifecycle } = context;
  const { weights, parameters } = shardedWeights(context, options, shard, frozenShard, narrow);
  claims.claim('parameters', 'zero', parameters);
  if (frozenShard) claims.claim('frozen', 'zero', parameters);
  lifecycle.tap('acquire', 'acquire', 'zero.gather', (event) => parameters.acquire(event));
  lifecycle.tap('release', 'release', 'zero.release', (event) => parameters.release(event));
  return weights;
}

import type {
  OptimizerOutcome,
  OptimizerStepContext,
  OptimizerStepOwner,
} from '../../hooks/index.ts';
import { DeepSpeedError } from '../../errors.ts';
import type {
  NativeBuffer,
  NativeEngine,
  OptimizerHyper,
  OptimizerKind,
  OptimizerRange,
  OptimizerStep,
  Region,
  Work,
} from '../../native/contract.ts';
import { type FlatLayout, groupRanges, type Shard, tensorRanges } from '../../layout.ts';
import type { Weights } from '../precision/weights.ts';
import type { GradientReducer } from './gradients.ts';

const bytesPerElement = 4;

/** fp32 states an optimizer keeps by element: moments, momentum, accumulated squares. */
export function stateCount(recipe: OptimizerRecipe): number {
  switch (recipe.kind) {
    case 'adam':
    case 'adamw':
    case 'adamax':
    case 'rmsprop':
    case 'adadelta':
    case 'lamb':
      return 2;
    case 'rmsprop_centered':
    case 'onebit_lamb':
    case 'lamb_frozen':
      return 3;
    case 'lion':
    case 'adagrad':
    case 'adagrad_root':
    case 'adam_frozen':
      return 1;
    case 'average':
      return 0;
    case 'sgd':
      return recipe.groups.some((group) => group.beta1 !== 0) ? 1 : 0;
  }
}

export interface OptimizerRecipe {
  readonly kind: OptimizerKind;
  /** One entry by parameter group; `lr` is replaced every step by the schedule. */
  readonly groups: readonly OptimizerHyper[];
  /** Global-norm clipping; 0 = off. */
  readonly maxNorm: number;
}

export interface PartitionedOptimizerOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  rank: number;
  worldSize: number;
  weights: Weights;
  gradients: GradientReducer;
  recipe: OptimizerRecipe;
  /** Stage 1 and above: this rank keeps and updates its shard only. */
  partitioned: boolean;
  /** fp16's factor alone, for reports; `gradients.lossScale` is what gradients are divided by. */
  lossScale: { readonly value: number };
  /** A step with gradients that are not finite is skipped, not an error. */
  skipsOverflow: boolean;
}

/**
 * The optimizer step over a flat buffer: global norm, clipping, update, and, when partitioned, an
 * all-gather of what the owners updated. The norm is the rank-order sum of the shards' norms at every
 * stage, so that stages stay bitwise equal.
 */
export class PartitionedOptimizer implements OptimizerStepOwner {
  readonly #options: PartitionedOptimizerOptions;
  readonly #norm: NativeBuffer;
  readonly #ownRanges: OptimizerRange[];
  readonly #updated: Shard;
  readonly #updateRanges: OptimizerRange[];
  /** Optimizer states of `updated`, fp32; fewer than two for some kinds. */
  readonly states: readonly NativeBuffer[];
  readonly weights: Weights;
  #step = 0;
  #enqueued = { step: 0, lossScale: 1, gradientScale: 1 };

  constructor(options: PartitionedOptimizerOptions) {
    this.#options = options;
    const { engine, layout, rank, recipe, partitioned } = options;
    const own = layout.shards[rank]!;
    this.#ownRanges = groupRanges(layout, own);
    this.#updated = partitioned ? own : { offset: 0, count: layout.total };
    this.#updateRanges = partitioned ? this.#ownRanges : groupRanges(layout, this.#updated);
    this.weights = options.weights;
    if (recipe.kind === 'lamb' || recipe.kind === 'onebit_lamb') {
      if (partitioned)
        throw new DeepSpeedError('INTERNAL', 'internal: LAMB under ZeRO 1, which rules refuse');
      this.#updateRanges = tensorRanges(layout);
    }
    this.#norm = engine.allocate(64, { category: 'optimizer', name: 'gradient norm' });
    this.states = Array.from({ length: stateCount(recipe) }, (_, index) =>
      engine.allocate(this.#updated.count * bytesPerElement, {
        category: 'optimizer',
        name: `optimizer state ${index + 1}`,
      }),
    );
  }

  /** Steps the optimizer has taken: skipped ones do not count. */
  get step(): number {
    return this.#step;
  }

  /** For loading: the next step is `step` + 1. */
  restore(step: number): void {
    this.#step = step;
  }

  /** The elements of the flat buffer whose states are here. */
  get updated(): Shard {
    return this.#updated;
  }

  /** @param own of this step: hyper-parameters that are not simply the recipe's and the context's; ratios */
  enqueue(
    context: OptimizerStepContext,
    { groups, ratios }: Partial<Pick<OptimizerStep, 'groups' | 'ratios'>> = {},
  ): Work {
    const { engine, recipe, gradients, worldSize, lossScale, partitioned } = this.#options;
    const { shard, whole, after } = gradients.reduced();
    const pair = { buffer: this.#norm, byteOffset: 0 };
    const pieces = this.#ownRanges.map((range) => within(shard, range));
    let ready = engine.squaredNorm(pieces, pair, after);
    if (worldSize > 1) {
      ready = engine.allReduce({ ...pair, count: 2, dtype: 'float64' }, 'sum', [ready]);
    }
    const [state1, state2, state3] = this.states.map((buffer) => this.#region(buffer));
    const step = this.#step + 1;
    const gradientScale = 1 / gradients.lossScale;
    this.#enqueued = { step, lossScale: lossScale.value, gradientScale };
    const updated = engine.optimizerStep(
      {
        kind: recipe.kind,
        step,
        master: this.weights.master,
        ...(this.weights.copy16 && { copy16: this.weights.copy16 }),
        gradient: partitioned ? shard : whole!,
        ...(state1 && { state1 }),
        ...(state2 && { state2 }),
        ...(state3 && { state3 }),
        ...(ratios && { ratios }),
        ranges: this.#updateRanges,
        groups:
          groups ??
          recipe.groups.map((group, index) => ({
            ...group,
            lr: context.learningRates[index]!,
            ...(context.betas && { beta1: context.betas[0], beta2: context.betas[1] }),
          })),
        gradientScale,
        maxNorm: recipe.maxNorm,
        norm: pair,
      },
      [ready],
    );
    return this.weights.publish(updated);
  }

  outcome(): OptimizerOutcome {
    const [squares, overflows] = new Float64Array(this.#norm.view(), 0, 2);
    const { step, lossScale, gradientScale } = this.#enqueued;
    if (overflows === 0) this.#step = step;
    return {
      gradientNorm: overflows === 0 ? Math.sqrt(squares!) * gradientScale : Number.NaN,
      overflows: overflows!,
      skipped: overflows! > 0 && this.#options.skipsOverflow,
      lossScale,
    };
  }

  #region(buffer: NativeBuffer): Region {
    return { buffer, byteOffset: 0, count: this.#updated.count, dtype: 'float32' };
  }
}

/** `range` of a region, offsets relative to it. */
function within(region: Region, range: { offset: number; count: number }): Region {
  return {
    ...region,
    byteOffset: region.byteOffset + range.offset * bytesPerElement,
    count: range.count,
  };
}

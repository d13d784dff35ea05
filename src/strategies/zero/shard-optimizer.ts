import type {
  OptimizerOutcome,
  ReducedGradient,
  OptimizerStepContext,
  OptimizerStepOwner,
} from '../../hooks/index.ts';
import { type FlatLayout, groupRanges } from '../../layout.ts';
import type {
  NativeBuffer,
  NativeEngine,
  OptimizerRange,
  OptimizerStep,
  Region,
  Work,
} from '../../native/contract.ts';
import type { Weights } from '../precision/weights.ts';
import type { BeingSaved } from '../being-saved.ts';
import type { HeldPart } from '../held.ts';
import type { GradientReducer } from './gradients.ts';
import type { OptimizerRecipe } from './recipe.ts';

const bytesPerElement = 4;

export interface ShardOptimizerOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  rank: number;
  worldSize: number;
  gradients: GradientReducer;
  recipe: OptimizerRecipe;
  /** fp16's factor alone, for reports; `gradients.lossScale` is what gradients are divided by. */
  lossScale: { readonly value: number };
  /** A step with gradients that are not finite is skipped, not an error. */
  skipsOverflow: boolean;
  /** Asked by `update`. */
  beingSaved: BeingSaved;
}

/** A step without what it updates. */
export type StepSettings = Omit<
  OptimizerStep,
  'master' | 'copy16' | 'gradient' | 'state1' | 'state2' | 'state3' | 'ranges'
>;

/**
 * The optimizer step over a flat buffer: global norm, clipping, update, and the way back to the model. The
 * norm is the rank-order sum of the shards' norms at every stage, so that stages stay bitwise equal.
 */
export abstract class ShardOptimizer implements OptimizerStepOwner {
  abstract readonly weights: Weights;
  /** The states by number, as this rank has them. */
  abstract readonly stored: readonly (readonly HeldPart[])[];
  /** Stretches of this rank's shard, by parameter group. */
  protected readonly ownRanges: OptimizerRange[];
  readonly #options: ShardOptimizerOptions;
  readonly #norm: Pair;
  #step = 0;
  #enqueued: { step: number; lossScale: number; gradientScale: number; pair: Pair };

  constructor(options: ShardOptimizerOptions) {
    this.#options = options;
    const { engine, layout, rank } = options;
    this.ownRanges = groupRanges(layout, layout.shards[rank]!);
    const buffer = engine.allocate(64, { category: 'optimizer', name: 'gradient norm' });
    this.#norm = { buffer, byteOffset: 0 };
    this.#enqueued = { step: 0, lossScale: 1, gradientScale: 1, pair: this.#norm };
  }

  /** Enqueues the update itself; `gradient` is what `gradients.reduced()` returned. */
  protected abstract update(
    step: StepSettings,
    gradient: Omit<ReducedGradient, 'after'>,
    after: Work[],
  ): Work;

  /** Steps the optimizer has taken: skipped ones do not count. */
  get step(): number {
    return this.#step;
  }

  /** For loading: the next step is `step` + 1. */
  restore(step: number): void {
    this.#step = step;
  }

  /** @param own of this step: hyper-parameters that are not simply the recipe's and the context's; ratios */
  enqueue(
    context: OptimizerStepContext,
    { groups, ratios }: Partial<Pick<OptimizerStep, 'groups' | 'ratios'>> = {},
  ): Work {
    const { engine, recipe, gradients, worldSize, lossScale } = this.#options;
    const { after, ...gradient } = gradients.reduced();
    const norm = gradients.swapped?.norm(after) ?? this.#normOf(gradient.shard!, after);
    const { pair } = norm;
    let { ready } = norm;
    if (worldSize > 1) {
      ready = engine.allReduce({ ...pair, count: 2, dtype: 'float64' }, 'sum', [ready]);
    }
    const step = this.#step + 1;
    const gradientScale = 1 / gradients.lossScale;
    this.#enqueued = { step, lossScale: lossScale.value, gradientScale, pair };
    const updated = this.update(
      {
        kind: recipe.kind,
        step,
        ...(ratios && { ratios }),
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
      gradient,
      [ready],
    );
    return this.weights.publish(updated);
  }

  outcome(): OptimizerOutcome {
    const { step, lossScale, gradientScale, pair } = this.#enqueued;
    const [squares, overflows] = new Float64Array(pair.buffer.view(), pair.byteOffset, 2);
    if (overflows === 0) this.#step = step;
    return {
      gradientNorm: overflows === 0 ? Math.sqrt(squares!) * gradientScale : Number.NaN,
      overflows: overflows!,
      skipped: overflows! > 0 && this.#options.skipsOverflow,
      lossScale,
    };
  }

  #normOf(shard: Region, after: Work[]): { pair: Pair; ready: Work } {
    const pieces = this.ownRanges.map((range) => within(shard, range));
    const pair = this.#norm;
    return { pair, ready: this.#options.engine.squaredNorm(pieces, pair, after) };
  }
}

/** [Σ g², count of values that are not finite], two float64. */
interface Pair {
  buffer: NativeBuffer;
  byteOffset: number;
}

/** `range` of a region, offsets relative to it. */
export function within(region: Region, range: { offset: number; count: number }): Region {
  return {
    ...region,
    byteOffset: region.byteOffset + range.offset * bytesPerElement,
    count: range.count,
  };
}

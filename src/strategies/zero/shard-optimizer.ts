import type {
  OptimizerOutcome,
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
  readonly #norm: NativeBuffer;
  #step = 0;
  #enqueued = { step: 0, lossScale: 1, gradientScale: 1 };

  constructor(options: ShardOptimizerOptions) {
    this.#options = options;
    const { engine, layout, rank } = options;
    this.ownRanges = groupRanges(layout, layout.shards[rank]!);
    this.#norm = engine.allocate(64, { category: 'optimizer', name: 'gradient norm' });
  }

  /** Enqueues the update itself; `gradient` is what `gradients.reduced()` returned. */
  protected abstract update(
    step: StepSettings,
    gradient: { shard: Region; whole?: Region },
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
    const pair = { buffer: this.#norm, byteOffset: 0 };
    const pieces = this.ownRanges.map((range) => within(gradient.shard, range));
    let ready = engine.squaredNorm(pieces, pair, after);
    if (worldSize > 1) {
      ready = engine.allReduce({ ...pair, count: 2, dtype: 'float64' }, 'sum', [ready]);
    }
    const step = this.#step + 1;
    const gradientScale = 1 / gradients.lossScale;
    this.#enqueued = { step, lossScale: lossScale.value, gradientScale };
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
}

/** `range` of a region, offsets relative to it. */
export function within(region: Region, range: { offset: number; count: number }): Region {
  return {
    ...region,
    byteOffset: region.byteOffset + range.offset * bytesPerElement,
    count: range.count,
  };
}

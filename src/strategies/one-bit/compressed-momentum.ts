import type { OptimizerOutcome, OptimizerStepContext } from '../../hooks/index.ts';
import { type FlatLayout, groupRanges } from '../../layout.ts';
import type {
  NativeBuffer,
  NativeEngine,
  OptimizerHyper,
  OptimizerRange,
  Region,
  Work,
} from '../../native/contract.ts';
import type { BeingSaved } from '../being-saved.ts';
import { rangesWithin } from '../offload/sub-groups.ts';
import { stretchOf } from '../precision/wire.ts';
import type { GradientReducer } from '../zero/gradients.ts';
import type { PartitionedOptimizer } from '../zero/optimizer.ts';
import { CompressedMean } from './compressed-mean.ts';

export interface CompressedMomentumOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  worldSize: number;
  gradients: GradientReducer;
  /** Takes the dense steps; its moments and weights are those of the others, too. */
  dense: PartitionedOptimizer;
  groups: readonly OptimizerHyper[];
  maxNorm: number;
  lossScale: { readonly value: number };
  skipsOverflow: boolean;
  /** What a step changes waits for it. */
  beingSaved: BeingSaved;
}

/**
 * What the one-bit optimizers share: each rank puts its own gradient into the momentum, the
 * momentum travels as one bit an element, and the second moment v stays as it is.
 *
 *   m ← compressed mean over ranks of β1·m + (1−β1)·g_rank
 *   p ← p − lr·wd·p − lr/(1−β1ᵗ) · m / (√v/√correction2 + ε)
 *
 * Where v is 0 an element has had no gradient, and only decays: one bit cannot say that its momentum is 0.
 * Clipping uses the root mean square over ranks of the norms of their own gradients, since nobody has the
 * averaged one.
 */
export class CompressedMomentum {
  readonly #options: CompressedMomentumOptions;
  readonly #norm: NativeBuffer;
  readonly ranges: OptimizerRange[];
  readonly mean: CompressedMean;
  #enqueued = { step: 0, gradientScale: 1, lossScale: 1 };

  constructor(options: CompressedMomentumOptions) {
    this.#options = options;
    const { engine, layout, worldSize } = options;
    this.ranges = groupRanges(layout, { offset: 0, count: layout.total });
    this.mean = new CompressedMean(engine, layout, worldSize, options.beingSaved);
    this.#norm = engine.allocate(64, { category: 'optimizer', name: 'local gradient norms' });
  }

  /**
   * The groups' hyper-parameters for this step.
   *
   * @param updates how many of the steps up to `step` have changed the second moments, which corrects
   *   their start at 0
   */
  groups(
    { learningRates, betas }: Pick<OptimizerStepContext, 'learningRates' | 'betas'>,
    step: number,
    updates: number,
  ): OptimizerHyper[] {
    return this.#options.groups.map((group, index) => {
      const [beta1, beta2] = betas ?? [group.beta1, group.beta2];
      // Where every step has, the engine's own correction is the same.
      const given = group.biasCorrection && updates < step;
      return {
        ...group,
        beta1,
        beta2,
        lr: learningRates[index]!,
        ...(given && { correction2: 1 - beta2 ** updates }),
      };
    });
  }

  /** The whole step, number `step` of the optimizer. */
  enqueue(step: number, groups: OptimizerHyper[]): Work {
    const { engine, dense } = this.#options;
    const { momentum, variance } = this;
    const sent = this.sendMomentum(step, groups);
    const { master, copy16 } = dense.weights;
    const updated = engine.optimizerStep(
      {
        kind: 'adam_frozen',
        step,
        master,
        ...(copy16 && { copy16 }),
        gradient: momentum,
        state1: variance,
        ranges: this.ranges,
        groups,
        gradientScale: 1,
        maxNorm: 0,
        norm: this.norm,
      },
      [sent],
    );
    return dense.weights.publish(updated);
  }

  /** The new momentum, the same on all ranks. */
  sendMomentum(step: number, groups: OptimizerHyper[]): Work {
    return this.mean.exchange(this.momentum, this.takeGradient(step, groups));
  }

  /**
   * m ← β1·m + (1−β1)·g of this rank alone, unless a rank's gradient is not finite. Parts that a checkpoint has yet to read
   * come when it has: after the last of them, weights and moments may change.
   */
  takeGradient(step: number, groups: OptimizerHyper[]): Work {
    const { engine, layout, worldSize, gradients, maxNorm, lossScale, beingSaved } = this.#options;
    const { whole, after } = gradients.reduced();
    const gradient = whole!;
    const { norm } = this;
    const pieces = this.ranges.map((range) => stretchOf(gradient, range));
    const own = engine.squaredNorm(pieces, norm, after);
    const agreed = engine.allReduce({ ...norm, count: 2, dtype: 'float64' }, 'sum', [own]);

    // The loss is normalised by the tokens of all ranks: the mean of W·g is the gradient.
    const gradientScale = worldSize / gradients.lossScale;
    this.#enqueued = { step, gradientScale, lossScale: lossScale.value };
    let last = [agreed, ...beingSaved.local];
    for (const part of beingSaved.divide({ offset: 0, count: layout.total })) {
      const updated = engine.optimizerStep(
        {
          kind: 'average',
          step,
          master: stretchOf(this.momentum, part.range),
          gradient: stretchOf(gradient, part.range),
          ranges: rangesWithin(this.ranges, part.range),
          groups,
          gradientScale,
          // The engine clips by √(Σ over ranks)·scale; the root mean square is √W less.
          maxNorm: maxNorm * Math.sqrt(worldSize),
          norm,
        },
        [...last, ...part.after],
      );
      last = [updated];
    }
    return last[0]!;
  }

  /** Of the last step that took its gradient here. Counts it, unless it changed nothing. */
  outcome(): OptimizerOutcome {
    const { dense, worldSize, skipsOverflow } = this.#options;
    const { step, gradientScale, lossScale } = this.#enqueued;
    const pair = new Float64Array(this.#norm.view(), 0, 2);
    const [squares, overflows] = [pair[0]!, pair[1]!];
    if (overflows === 0) dense.restore(step);
    return {
      gradientNorm: overflows === 0 ? Math.sqrt(squares / worldSize) * gradientScale : Number.NaN,
      overflows,
      skipped: overflows > 0 && skipsOverflow,
      lossScale,
    };
  }

  /** Where a step finds whether all ranks' gradients are finite; for `optimizerStep`. */
  get norm(): { buffer: NativeBuffer; byteOffset: number } {
    return { buffer: this.#norm, byteOffset: 0 };
  }

  get momentum(): Region {
    return this.flat(this.#options.dense.states[0]!);
  }

  get variance(): Region {
    return this.flat(this.#options.dense.states[1]!);
  }

  flat(buffer: NativeBuffer): Region {
    return { buffer, byteOffset: 0, count: this.#options.layout.total, dtype: 'float32' };
  }
}

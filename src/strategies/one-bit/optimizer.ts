import type {
  OptimizerOutcome,
  OptimizerStepContext,
  OptimizerStepOwner,
} from '../../hooks/index.ts';
import { type FlatLayout, groupRanges } from '../../layout.ts';
import type {
  CompressorId,
  NativeBuffer,
  NativeEngine,
  OptimizerHyper,
  OptimizerRange,
  Region,
  Work,
} from '../../native/contract.ts';
import type { GradientReducer } from '../zero/gradients.ts';
import type { LocalState } from '../zero/index.ts';
import type { PartitionedOptimizer } from '../zero/optimizer.ts';

const bytesPerElement = 4;

export interface OneBitAdamOptions {
  engine: NativeEngine;
  layout: FlatLayout;
  worldSize: number;
  gradients: GradientReducer;
  /** Takes the dense steps; its moments and weights go on being used when they have ended. */
  dense: PartitionedOptimizer;
  groups: readonly OptimizerHyper[];
  maxNorm: number;
  /** Dense steps; the second moments are those of the last one from then on. At least 1. */
  freezeStep: number;
  lossScale: { readonly value: number };
  skipsOverflow: boolean;
}

/**
 * 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm 1). For `freezeStep` steps it is AdamW on averaged
 * gradients. After that the second moment v is constant, each rank updates the momentum with its own
 * gradient, and the momentum travels as one bit an element:
 *
 *   m ← compressed mean over ranks of β1·m + (1−β1)·g_rank
 *   p ← p − lr·wd·p − lr/(1−β1ᵗ) · m / (√v/√(1−β2^freezeStep) + ε)
 *
 * Bias correction is Adam's own; DeepSpeed's accepts `bias_correction` and never applies it. Clipping uses
 * the root mean square over ranks of the norms of their own gradients, since nobody has the averaged one.
 */
export class OneBitAdam implements OptimizerStepOwner {
  readonly #options: OneBitAdamOptions;
  readonly #ranges: OptimizerRange[];
  readonly #norm: NativeBuffer;
  readonly #compressor: CompressorId;
  /** What this rank has not sent yet, and what it has not passed on as a server. */
  readonly errors: readonly LocalState[];
  #enqueued: { step: number; gradientScale: number; lossScale: number } | null = null;

  constructor(options: OneBitAdamOptions) {
    this.#options = options;
    const { engine, layout } = options;
    this.#ranges = groupRanges(layout, { offset: 0, count: layout.total });
    const compressor = engine.createCompressor(stretches(layout));
    this.#compressor = compressor.id;
    this.errors = [
      { name: 'worker error', count: layout.total },
      { name: 'server error', count: compressor.served },
    ].map(({ name, count }) => ({
      name,
      count,
      buffer: engine.allocate(Math.max(count, 1) * bytesPerElement, {
        category: 'optimizer',
        name: `compression: ${name}`,
      }),
    }));
    this.#norm = engine.allocate(64, { category: 'optimizer', name: 'local gradient norms' });
  }

  /** Whether the next step sends the momentum instead of the gradient. */
  get compresses(): boolean {
    return this.#options.dense.step >= this.#options.freezeStep;
  }

  enqueue(context: OptimizerStepContext): Work {
    if (this.compresses) return this.#enqueueCompressed(context);
    this.#enqueued = null;
    return this.#options.dense.enqueue(context);
  }

  outcome(): OptimizerOutcome {
    const { dense, worldSize, skipsOverflow } = this.#options;
    if (this.#enqueued === null) return dense.outcome();
    const { step, gradientScale, lossScale } = this.#enqueued;
    const [squares, overflows] = new Float64Array(this.#norm.view(), 0, 2) as unknown as [
      number,
      number,
    ];
    if (overflows === 0) dense.restore(step);
    return {
      gradientNorm: overflows === 0 ? Math.sqrt(squares / worldSize) * gradientScale : Number.NaN,
      overflows,
      skipped: overflows > 0 && skipsOverflow,
      lossScale,
    };
  }

  #enqueueCompressed(context: OptimizerStepContext): Work {
    const { engine, worldSize, gradients, dense, maxNorm, lossScale } = this.#options;
    const { whole, after } = gradients.reduced();
    const gradient = whole!;
    const norm = { buffer: this.#norm, byteOffset: 0 };
    const pieces = this.#ranges.map(({ offset, count }) => ({
      ...gradient,
      byteOffset: gradient.byteOffset + offset * bytesPerElement,
      count,
    }));
    const own = engine.squaredNorm(pieces, norm, after);
    const agreed = engine.allReduce({ ...norm, count: 2, dtype: 'float64' }, 'sum', [own]);

    // The loss is normalised by the tokens of all ranks: the mean of W·g is the gradient.
    const gradientScale = worldSize / gradients.lossScale;
    const step = dense.step + 1;
    this.#enqueued = { step, gradientScale, lossScale: lossScale.value };
    const momentum = this.#flat(dense.states[0]!);
    const groups = this.#groups(context);
    const averaged = engine.optimizerStep(
      {
        kind: 'average',
        step,
        master: momentum,
        gradient,
        ranges: this.#ranges,
        groups,
        gradientScale,
        // The engine clips by √(Σ over ranks)·scale; the root mean square is √W less.
        maxNorm: maxNorm * Math.sqrt(worldSize),
        norm,
      },
      [agreed],
    );
    const sent = worldSize === 1 ? averaged : this.#exchange(momentum, averaged);
    const { master, copy16 } = dense.weights;
    const updated = engine.optimizerStep(
      {
        kind: 'adam_frozen',
        step,
        master,
        ...(copy16 && { copy16 }),
        gradient: momentum,
        state1: this.#flat(dense.states[1]!),
        ranges: this.#ranges,
        groups,
        gradientScale: 1,
        maxNorm: 0,
        norm,
      },
      [sent],
    );
    return dense.weights.publish(updated);
  }

  #groups({ learningRates, betas }: OptimizerStepContext): OptimizerHyper[] {
    const { groups, freezeStep } = this.#options;
    return groups.map((group, index) => {
      const [beta1, beta2] = betas ?? [group.beta1, group.beta2];
      const correction2 = group.biasCorrection ? { correction2: 1 - beta2 ** freezeStep } : {};
      return { ...group, beta1, beta2, lr: learningRates[index]!, ...correction2 };
    });
  }

  /** `momentum` becomes its compressed mean over ranks. */
  #exchange(momentum: Region, after: Work): Work {
    const [worker, server] = this.errors.map(
      ({ buffer, count }): Region => ({ buffer, byteOffset: 0, count, dtype: 'float32' }),
    );
    const served = server!.count === 0 ? null : server!;
    const { engine } = this.#options;
    return engine.compressedAllReduce(this.#compressor, momentum, worker!, served, [after]);
  }

  #flat(buffer: NativeBuffer): Region {
    return { buffer, byteOffset: 0, count: this.#options.layout.total, dtype: 'float32' };
  }
}

/** Lengths of the parameters and of the padding between them, which no block may mix. */
function stretches(layout: FlatLayout): number[] {
  const lengths: number[] = [];
  let end = 0;
  for (const { offset, count } of layout.slots) {
    lengths.push(offset - end, count);
    end = offset + count;
  }
  return [...lengths, layout.total - end].filter((length) => length > 0);
}

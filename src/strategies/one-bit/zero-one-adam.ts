import type { OptimizerOutcome, OptimizerStepContext } from '../../hooks/index.ts';
import type { FlatLayout } from '../../layout.ts';
import type { NativeBuffer, OptimizerHyper, Region, Work } from '../../native/contract.ts';
import type { Weights } from '../precision/weights.ts';
import { inMemory } from '../held.ts';
import type { LocalState } from '../local-state.ts';
import { CompressedMomentum, type CompressedMomentumOptions } from './compressed-momentum.ts';
import type { CompressingOptimizer } from './compressing-optimizer.ts';
import {
  freezeStep,
  varianceUpdates,
  type ZeroOneRules,
  type ZeroOneStep,
  zeroOneStep,
} from './zero-one-schedule.ts';

/** By group in `rates`: what the moves since the last exchange were scaled by, and the learning rates. */
const ratesPerGroup = 2;

/** Bytes beside the states and the errors: moves, weights at the last exchange, rates. */
export function zeroOneAdamBytes(layout: FlatLayout, groups: number): number {
  return 4 * (2 * layout.total + ratesPerGroup * groups);
}

/**
 * 0/1 Adam (Lu et al., arXiv 2202.06009, algorithm 1). Until the second moments v freeze, every step
 * either averages the gradient in full and updates both moments (at intervals that grow), or sends the
 * momentum as 1-bit Adam does. Then ranks step alone, with γ = lr/(1−β1ᵗ) and x̂ the weights at the last
 * exchange:
 *
 *   m ← β1·m + (1−β1)·g_rank;  u ← u + γ·m;  x = x̂ − u/(√v/√correction2 + ε)
 *
 * and at intervals that grow exchange their moves: u ← compressed mean of u, which moves x̂ as above and by
 * weight decay; m ← u/Σγ; u ← 0. x̂ is kept beside x, so that it stays equal on all ranks bit for bit.
 */
export class ZeroOneAdam implements CompressingOptimizer {
  readonly #options: CompressedMomentumOptions;
  readonly #rules: ZeroOneRules;
  readonly #compressed: CompressedMomentum;
  /** u and x̂. */
  readonly #moves: NativeBuffer;
  readonly #exchanged: NativeBuffer;
  /** By group; `savedRates` has those of the last checkpoint, since a step adds to them when it is enqueued. */
  readonly #rates: Float32Array;
  readonly #savedRates: NativeBuffer;
  readonly local: readonly LocalState[];
  readonly weights: Weights;
  #enqueued: ZeroOneStep = 'dense';

  constructor(options: CompressedMomentumOptions, rules: ZeroOneRules) {
    this.#options = options;
    this.#rules = rules;
    this.#compressed = new CompressedMomentum(options);
    const { engine, layout, dense, groups } = options;
    const { total } = layout;
    const vector = (name: string, count: number) =>
      engine.allocate(count * 4, { category: 'optimizer', name: `local steps: ${name}` });
    this.#moves = vector('moves', total);
    this.#exchanged = vector('weights at the last exchange', total);
    const rateCount = ratesPerGroup * groups.length;
    this.#rates = new Float32Array(rateCount);
    this.#savedRates = vector('rates', rateCount);
    this.local = [
      ...this.#compressed.mean.errors,
      { name: 'local moves', buffer: this.#moves, count: total },
      { name: 'rates of local moves', buffer: this.#savedRates, count: rateCount },
      // Saved with the shards as well, which is what another number of ranks starts from.
      { name: 'local momentum', buffer: dense.states[0]!, count: total, otherwise: 'kept' },
    ];
    this.weights = {
      publish: (updated) => dense.weights.publish(updated),
      stored: [inMemory(this.#exchanged, { offset: 0, count: total })],
      settle: () => this.#settle(),
      adopt: () => {
        dense.weights.adopt();
        this.#forgetMoves();
        return this.#keepExchanged();
      },
      restore: () => {
        this.#rates.set(this.#viewOfSavedRates());
        return this.#showLoaded();
      },
    };
  }

  get keepsGradient(): boolean {
    return zeroOneStep(this.#options.dense.step + 1, this.#rules) !== 'dense';
  }

  enqueue(context: OptimizerStepContext): Work {
    const { dense } = this.#options;
    const step = dense.step + 1;
    const { count: updates } = varianceUpdates(step, this.#rules);
    this.#enqueued = zeroOneStep(step, this.#rules);
    const groups = this.#compressed.groups(context, step, updates);
    switch (this.#enqueued) {
      case 'dense':
        return dense.enqueue(context, { groups });
      case 'compressed':
        return this.#compressed.enqueue(step, groups);
      case 'local':
      case 'exchange':
        return this.#stepAlone(step, groups);
    }
  }

  outcome(): OptimizerOutcome {
    if (this.#enqueued === 'dense') return this.#options.dense.outcome();
    const outcome = this.#compressed.outcome();
    // The rates of a step alone are in the sums already: it cannot be skipped.
    return this.#enqueued === 'compressed' ? outcome : { ...outcome, skipped: false };
  }

  /** Before local steps begin x is x̂. */
  #settle(): void {
    const { dense } = this.#options;
    this.#viewOfSavedRates().set(this.#rates);
    if (dense.step <= freezeStep(this.#rules)) this.#keepExchanged();
  }

  #stepAlone(step: number, groups: OptimizerHyper[]): Work {
    const { engine, dense } = this.#options;
    const { momentum, mean } = this.#compressed;
    const moves = this.#compressed.flat(this.#moves);
    const gammas = groups.map(({ lr, beta1, biasCorrection }) =>
      biasCorrection ? lr / (1 - beta1 ** step) : lr,
    );
    const rates = this.#rates;
    for (const [index, { lr }] of groups.entries()) {
      rates[ratesPerGroup * index]! += gammas[index]!;
      rates[ratesPerGroup * index + 1]! += lr;
    }
    const sums = groups.map((_, index) => rates[ratesPerGroup * index]!);
    // Where every rate was 0 nothing has moved, and there is no momentum to work out from it.
    const exchanges = this.#enqueued === 'exchange' && sums.every((sum) => sum > 0);

    this.#compressed.takeGradient(step, groups);
    if (step === freezeStep(this.#rules) + 1) {
      this.#keepExchanged();
      // Until now momentum travelled; from now on, moves do.
      mean.rescale(gammas[0]!);
    }
    const moved = this.#add(momentum, moves, gammas);
    if (!exchanges) return dense.weights.publish(this.#show(groups, [moved]));

    const decays = groups.map(
      ({ weightDecay }, index) => weightDecay * rates[ratesPerGroup * index + 1]!,
    );
    const shown = this.#show(groups, [mean.exchange(moves, moved)], decays);
    this.#keepExchanged();
    engine.fill(momentum, 0);
    this.#add(
      moves,
      momentum,
      sums.map((sum) => 1 / sum),
    );
    this.#forgetMoves();
    return dense.weights.publish(shown);
  }

  /** x = x̂ − decay·x̂ − u/(√v/√correction2 + ε), by group, and its 16-bit copy. */
  #show(groups: OptimizerHyper[], after: Work[] = [], decays: number[] = []): Work {
    const { engine, dense } = this.#options;
    const { ranges, variance } = this.#compressed;
    const { master, copy16 } = dense.weights;
    engine.copy(this.#compressed.flat(this.#exchanged), master, after);
    return engine.optimizerStep({
      kind: 'adam_frozen',
      step: 1,
      master,
      ...(copy16 && { copy16 }),
      gradient: this.#compressed.flat(this.#moves),
      state1: variance,
      ranges,
      // u has the rates in it.
      groups: groups.map((group, index) => ({
        ...group,
        lr: 1,
        correction1: 1,
        weightDecay: decays[index] ?? 0,
      })),
      gradientScale: 1,
      maxNorm: 0,
    });
  }

  #showLoaded(): Work {
    const { dense, groups } = this.#options;
    const { count: updates } = varianceUpdates(dense.step, this.#rules);
    const learningRates = groups.map(() => 0);
    const known = this.#compressed.groups({ learningRates }, dense.step, updates);
    return dense.weights.publish(this.#show(known));
  }

  /** target += factor·source, by group: a step of plain gradient descent backwards. */
  #add(source: Region, target: Region, factors: number[]): Work {
    const { engine, groups } = this.#options;
    return engine.optimizerStep({
      kind: 'sgd',
      step: 1,
      master: target,
      gradient: source,
      ranges: this.#compressed.ranges,
      groups: groups.map((group, index) => ({
        ...group,
        lr: -factors[index]!,
        beta1: 0,
        weightDecay: 0,
      })),
      gradientScale: 1,
      maxNorm: 0,
    });
  }

  /** x̂ ← x. */
  #keepExchanged(): Work {
    const { engine, layout, dense, beingSaved } = this.#options;
    const saved = beingSaved.before({ offset: 0, count: layout.total });
    return engine.copy(dense.weights.master, this.#compressed.flat(this.#exchanged), saved);
  }

  #forgetMoves(): void {
    this.#options.engine.fill(this.#compressed.flat(this.#moves), 0);
    this.#rates.fill(0);
  }

  #viewOfSavedRates(): Float32Array {
    return new Float32Array(this.#savedRates.view(), 0, this.#rates.length);
  }
}

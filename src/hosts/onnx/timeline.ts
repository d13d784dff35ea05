import { type DataType, elementSize, numel } from '../../graph/index.ts';
import type { PlannedValue, TrainingPlan } from '../../graph/plan.ts';
import { type ArenaPlan, LifetimeRecorder, planArena } from './arena.ts';
import { type Recomputation, RecomputedNames } from './recomputation.ts';

export type ProgramKind = 'training' | 'inference';

/**
 * When each value of a plan is touched. Position 0 is the prologue, 1 ... L the forwards, then the
 * backwards in reverse order, each with what is computed again before it; inputs and side values that the
 * host reads at the end live throughout.
 */
export class Timeline {
  readonly #lifetimes = new LifetimeRecorder();
  readonly values = new Map<string, PlannedValue>();

  constructor(plan: TrainingPlan, kind: ProgramKind, recomputation: Recomputation) {
    const count = plan.segments.length;
    const end = kind === 'training' ? 2 * count + 1 : count + 1;
    if (plan.prologue) this.#touchAll(plan.prologue.outputs, 0);
    plan.segments.forEach((segment, index) => {
      const io = kind === 'training' ? segment.forward : segment.inference;
      this.#touchAll(io.inputs, 1 + index);
      this.#touchAll(io.outputs, 1 + index);
      // The host reads the loss after the step, other outputs after inference only.
      for (const value of io.outputs) {
        const read = kind === 'inference' || plan.seeds.includes(`grad.${value.actual}`);
        if (value.kind === 'output' && read) this.#touch(value, end);
      }
    });
    if (kind === 'inference') return;
    this.#backward(plan, recomputation);
    // The host writes the gradient of the loss before the first segment runs.
    for (const value of this.values.values()) {
      if (value.kind === 'grad' && plan.seeds.includes(value.actual)) this.#touch(value, 1);
    }
  }

  /** A place for each value, those that are never needed at one time in the same one. */
  arena(): ArenaPlan {
    return planArena(this.#lifetimes.lifetimes());
  }

  #backward({ segments }: TrainingPlan, recomputation: Recomputation): void {
    const names = new RecomputedNames(segments, recomputation);
    for (const [index, { backward }] of segments.entries()) {
      const position = 2 * segments.length - index;
      for (const [segment, io] of [
        ...recomputation.before(index).map((other) => [other, segments[other]!.forward] as const),
        ...(backward ? [[index, backward] as const] : []),
      ]) {
        for (const value of [...io.inputs, ...io.outputs]) {
          this.#touch({ ...value, actual: names.nameOf(value, segment) }, position);
        }
      }
    }
  }

  #touchAll(values: readonly PlannedValue[], position: number): void {
    for (const value of values) this.#touch(value, position);
  }

  #touch(value: PlannedValue, position: number): void {
    if (value.kind === 'parameter' || value.kind === 'buffer' || value.kind === 'first') return;
    if (value.kind === 'input') return;
    this.values.set(value.actual, value);
    this.#lifetimes.touch(value.actual, byteSize(value.dtype, value.shape), position);
  }
}

export function byteSize(dtype: DataType, shape: readonly number[]): number {
  return elementSize(dtype) * numel(shape);
}

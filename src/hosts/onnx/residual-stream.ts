import { DeepSpeedError } from '../../errors.ts';
import { numel } from '../../graph/index.ts';
import { isTile } from '../../graph/passes/tile-tables.ts';
import type { PlannedSegment, PlannedValue, TrainingPlan } from '../../graph/plan.ts';
import type { NativeEngine, Region, Work } from '../../native/index.ts';
import type { Program } from './program.ts';

/**
 * A segment that carries one activation on in its shape: what a layer of a transformer is. Left out, its
 * output is its input.
 */
export interface ResidualStream {
  input: PlannedValue;
  output: PlannedValue;
  /** Gradient of the output; null where no gradient passes the segment. */
  arriving: PlannedValue | null;
  /** Gradient of the input; null where nothing before the segment is trained. */
  sent: PlannedValue | null;
}

/** The residual streams of a plan by segment: those that layer drop may leave out. */
export function residualStreams(plan: TrainingPlan): ReadonlyMap<number, ResidualStream> {
  const shared = new Set(
    plan.parameters
      .filter(({ trainable, segments }) => trainable && segments.length > 1)
      .map(({ name }) => name),
  );
  return new Map(
    plan.segments.flatMap((segment, index) => {
      if (isTile(segment.name)) return [];
      // A shared parameter has a gradient from elsewhere: that of this segment cannot just be absent.
      if (segment.parameters.some((name) => shared.has(name))) return [];
      const stream = residualStream(segment);
      return stream ? [[index, stream] as const] : [];
    }),
  );
}

function residualStream({ forward, backward }: PlannedSegment): ResidualStream | null {
  const input = only(forward.inputs.filter(({ kind }) => kind === 'activation'));
  const output = only(forward.outputs.filter(({ kind }) => kind !== 'saved'));
  if (!input || output?.kind !== 'activation') return null;
  if (input.dtype !== 'float32' || output.dtype !== 'float32') return null;
  if (input.shape.join() !== output.shape.join()) return null;
  if (!backward) return { input, output, arriving: null, sent: null };
  // Its output is changed after it has run, so its backward must not read it.
  if (backward.inputs.some(({ actual }) => actual === output.actual)) return null;
  const arriving = only(backward.inputs.filter(({ kind }) => kind === 'grad'));
  const sent = backward.outputs.filter(({ kind }) => kind === 'grad');
  if (!arriving || sent.length > 1) return null;
  return { input, output, arriving, sent: sent[0] ?? null };
}

function only<T>(values: readonly T[]): T | null {
  return values.length === 1 ? values[0]! : null;
}

/**
 * x + s·(F(x) − x) around a segment that computes F, by works on the places that it is bound to: graphs and
 * compiled sessions stay as they are. With g the gradient of the output, backward runs on s·g and yields
 * s·F'ᵀg; what is missing of the input's gradient is (1 − s)·g.
 */
export class ScaledResidual {
  readonly #engine: NativeEngine;
  readonly #program: Program;
  readonly #segment: number;
  readonly #stream: ResidualStream;
  readonly #scale: number;

  /** @param scale s, not 1; 0: the segment is left out */
  constructor(engine: NativeEngine, program: Program, segment: number, scale: number) {
    this.#engine = engine;
    this.#program = program;
    this.#segment = segment;
    this.#scale = scale;
    const stream = program.residuals.get(segment);
    if (!stream) {
      throw new DeepSpeedError(
        'INTERNAL',
        `internal: segment ${program.plan.segments[segment]!.name} cannot be left out or scaled`,
      );
    }
    this.#stream = stream;
  }

  /**
   * Left out: the output is the input.
   *
   * @param again where the segment runs again
   */
  passOn(after: Work, again = false): Work {
    const { input, output } = this.#stream;
    return this.#engine.copy(this.#region(input, again), this.#region(output, again), [after]);
  }

  /** Left out: the gradient of the input is that of the output. */
  passGradientOn(after: Work): Work | undefined {
    const { arriving, sent } = this.#stream;
    if (!arriving || !sent) return undefined;
    return this.#engine.copy(this.#region(arriving), this.#region(sent), [after]);
  }

  /**
   * After forward: y = s·y + (1 − s)·x.
   *
   * @param again where the segment has run again
   */
  mix(after: Work, again = false): Work {
    const { input, output } = this.#stream;
    const [x, y] = [this.#region(input, again), this.#region(output, again)];
    return this.#engine.axpby(x, y, 1 - this.#scale, this.#scale, [after]);
  }

  /** Before backward: g = s·g. */
  scaleGradient(after: Work): Work | undefined {
    const { arriving } = this.#stream;
    if (!arriving) return undefined;
    const gradient = this.#region(arriving);
    return this.#engine.axpby(gradient, gradient, this.#scale, 0, [after]);
  }

  /** After backward, when the output's gradient is s·g: the input's gradient gets its (1 − s)·g. */
  addGradient(after: Work): Work | undefined {
    const { arriving, sent } = this.#stream;
    if (!arriving || !sent) return undefined;
    const missing = (1 - this.#scale) / this.#scale;
    return this.#engine.axpby(this.#region(arriving), this.#region(sent), missing, 1, [after]);
  }

  #region(value: PlannedValue, again = false): Region {
    const place = again
      ? this.#program.placeAgain(value, this.#segment)
      : this.#program.place(value.actual);
    return { ...place, count: numel(value.shape), dtype: 'float32' };
  }
}

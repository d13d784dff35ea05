import type { DeepSpeedConfig } from '../../config/index.ts';
import type {
  GradientOwner,
  OptimizerOutcome,
  OptimizerStepContext,
  OptimizerStepOwner,
  StepPlan,
} from '../../hooks/index.ts';
import { intersect } from '../../layout.ts';
import type { NativeBuffer, Work } from '../../native/index.ts';
import type { Runtime } from '../../runtime.ts';
import { composeSession, requireOwner, type Session } from '../../session.ts';
import type { StrategyPlugin } from '../../strategies/plugin.ts';
import type { Precision } from '../../strategies/precision/precision.ts';
import type { OptimizerRecipe } from '../../strategies/zero/optimizer.ts';
import { ArrayHost, type ArrayParameter } from './array-host.ts';

export interface ArraySessionOptions {
  runtime: Runtime;
  /** The host's name in errors and reports. */
  name: string;
  parameters: readonly ArrayParameter[];
  plugin: StrategyPlugin;
  config: DeepSpeedConfig | null;
  optimizer: OptimizerRecipe;
  precision: Precision;
}

/** Where a backward pass puts its gradients. Every parameter must be written once a micro batch. */
export interface GradientSink {
  /**
   * @param values of the parameter's size; null: the gradient is zero
   * @param factor what they are multiplied by on the way
   */
  write(parameter: string, values: Float32Array | null, factor?: number): void;
}

/**
 * A session of parameters that live in JavaScript: the lifecycle of a step for owners of forward and
 * backward that hand over finished gradients. Synchronous: it blocks where the engine must have ended.
 */
export class ArraySession {
  readonly session: Session;
  readonly gradients: GradientOwner;
  readonly optimizer: OptimizerStepOwner;
  readonly #runtime: Runtime;
  readonly #views = new Map<string, Float32Array>();
  readonly #targets = new Map<
    string,
    { buffer: NativeBuffer; view: Float32Array; byteOffset: number }
  >();
  /** Gradients on their way into others: made when a micro batch first adds or scales. */
  #staging: NativeBuffer | undefined;
  /** The last work of this micro batch that reads the staging memory. */
  #adding: Work | undefined;

  /** Every rank must open the session, with the same parameters. */
  static async open(options: ArraySessionOptions): Promise<ArraySession> {
    const host = new ArrayHost(options.name, options.parameters);
    const session = await composeSession({ ...options, host });
    return new ArraySession(options.runtime, session);
  }

  private constructor(runtime: Runtime, session: Session) {
    this.#runtime = runtime;
    this.session = session;
    this.gradients = requireOwner(session, 'gradients');
    this.optimizer = requireOwner(session, 'optimizerStep');
    for (const { name, count } of session.layout.slots) {
      // Such a host cannot gather, so this is the engine's memory itself.
      this.#views.set(name, session.parameters.read(name));
      const { buffer, byteOffset } = this.gradients.location(name);
      const view = new Float32Array(buffer.view(), byteOffset, count);
      this.#targets.set(name, { buffer, view, byteOffset });
    }
  }

  /** A parameter's value in engine memory, not copied: it changes with every step. */
  parameter(name: string): Float32Array {
    return this.#views.get(name)!;
  }

  /** Makes rank 0's values, which the caller has written into `parameter(...)`, those of all ranks. */
  async parametersWritten(): Promise<void> {
    const { parameters, lifecycle } = this.session;
    const shared = parameters.share();
    if (shared !== null) this.#runtime.engine.waitSync(shared);
    await lifecycle.run('parametersWritten', {});
  }

  /**
   * Values of parameters were replaced, the same way on all ranks, between two steps. Where the strategy
   * keeps weights of its own, the engine copies them before whatever is enqueued next.
   */
  parametersReplaced(): Promise<void> {
    return this.session.lifecycle.run('parametersWritten', {});
  }

  /**
   * One micro batch.
   *
   * @param compute runs forward and backward and writes every gradient
   * @returns what `compute` does
   */
  trainMicroBatch<T>(plan: StepPlan, compute: (sink: GradientSink, plan: StepPlan) => T): T {
    const { engine } = this.#runtime;
    const { lifecycle } = this.session;
    const agreed = lifecycle.fire('planStep', plan);
    const forward = { plan: agreed, segment: 0, pass: 'forward' } as const;
    const backward = { plan: agreed, segment: 0, pass: 'backward' } as const;
    lifecycle.fire('acquire', forward);
    const nothing = this.#nothing();
    lifecycle.fire('forward', { ...forward, work: nothing });
    lifecycle.fire('release', { ...forward, work: nothing });
    lifecycle.fire('acquire', backward);
    // What reads these places still belongs to the micro batch before.
    for (const work of this.gradients.ready(0)) engine.waitSync(work);
    const adds = agreed.microBatch > 0 && this.gradients.accumulatesLocally;
    const result = compute(
      {
        write: (name, values, factor = 1) => {
          this.#write(name, values, factor, adds);
        },
      },
      agreed,
    );
    const last = this.#adding ?? this.#nothing();
    this.#adding = undefined;
    lifecycle.fire('backward', { ...backward, work: last });
    lifecycle.fire('release', { ...backward, work: last });
    engine.waitSync(last);
    return result;
  }

  /** The optimizer's step at the accumulation boundary; blocks until parameters are whole. */
  step(context: OptimizerStepContext): OptimizerOutcome {
    const { engine } = this.#runtime;
    engine.waitSync(this.optimizer.enqueue(context));
    return this.optimizer.outcome();
  }

  /** Ends when nothing of the micro batches so far is on its way, so that the step may be dropped. */
  async gradientsAtRest(): Promise<void> {
    for (const work of this.gradients.reduced().after) await this.#runtime.engine.wait(work);
  }

  /**
   * After a step that failed: a parameter of this rank's shard whose summed gradient is not finite. Null where
   * there is none, or the sum is on disk.
   */
  nonFiniteSum(): string | null {
    const { engine, rank } = this.#runtime;
    const { shard, after } = this.gradients.reduced();
    for (const work of after) engine.waitSync(work);
    if (shard === null) return null;
    const { layout } = this.session;
    const own = layout.shards[rank]!;
    const sum = new Float32Array(shard.buffer.view(), shard.byteOffset, shard.count);
    const found = layout.slots.find((slot) => {
      const { offset, count } = intersect(slot, own);
      const start = offset - own.offset;
      return !sum.subarray(start, start + count).every(Number.isFinite);
    });
    return found?.name ?? null;
  }

  #write(name: string, values: Float32Array | null, factor: number, adds: boolean): void {
    const target = this.#targets.get(name)!;
    if (values === null) {
      if (!adds) target.view.fill(0);
      return;
    }
    if (factor === 1 && !adds) {
      target.view.set(values);
      return;
    }
    const { engine } = this.#runtime;
    const { layout } = this.session;
    const { offset, count } = layout.byName.get(name)!;
    this.#staging ??= engine.allocate(layout.total * 4, {
      category: 'gradients',
      name: 'gradients to add',
    });
    new Float32Array(this.#staging.view(), offset * 4, count).set(values);
    this.#adding = engine.axpby(
      { buffer: this.#staging, byteOffset: offset * 4, count, dtype: 'float32' },
      { buffer: target.buffer, byteOffset: target.byteOffset, count, dtype: 'float32' },
      factor,
      adds ? 1 : 0,
    );
  }

  /** Work that has nothing to do: what hooks name when everything was done before they fire. */
  #nothing(): Work {
    const { parameters, layout } = this.session;
    const { buffer } = parameters.location(layout.slots[0]!.name, 0, 'forward');
    return this.#runtime.engine.fill({ buffer, byteOffset: 0, count: 0, dtype: 'float32' }, 0);
  }
}

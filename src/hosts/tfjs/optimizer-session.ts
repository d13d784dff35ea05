import { DeepSpeedError } from '../../errors.ts';
import { intersect, type Shard } from '../../layout.ts';
import type { NativeBuffer } from '../../native/index.ts';
import { PartitionedOptimizer } from '../../strategies/zero/optimizer.ts';
import { ArraySession } from '../loop/array-session.ts';
import { copiesNewValues } from './backend-memory.ts';
import type { HostContext } from './context.ts';
import type { Optimizer, Tensor, Variable } from './library.ts';
import { adapterOf, type OptimizerAdapter } from './optimizers.ts';
import type { Settings } from './settings.ts';

interface StateEntry {
  originalName: string;
  variable: Variable;
}

/**
 * One optimizer instance and the variables that it trains: the engine holds its states and master weights,
 * the variables get new values after every step.
 */
export class OptimizerSession {
  readonly arrays: ArraySession;
  adapter: OptimizerAdapter | null;
  readonly settings: Settings;
  readonly optimizer: Optimizer;
  readonly variables: readonly Variable[];
  /** Optimizer steps of this session, for plans and errors. */
  steps = 0;
  readonly #context: HostContext;
  /**
   * What each variable held after the last step: another identity, or value where `dataSync` is the variable's
   * own memory, is the script's doing.
   */
  readonly #written = new Map<Variable, { dataId: object; values: Float32Array | null }>();
  /** TensorFlow.js's own fields hold the current states. */
  #givenBack = false;
  #scheduledRate: number | null = null;
  /** Whether a variable had no gradient in its first step. */
  readonly #missing = new Map<string, boolean>();

  /** Every rank must open it. */
  static async open(
    context: HostContext,
    optimizer: Optimizer,
    variables: readonly Variable[],
    settings: Settings,
  ): Promise<OptimizerSession> {
    const adapter = adapterOf(context.core, optimizer);
    const { runtime } = context;
    adapter?.prepare(adapter.learningRate());
    const arrays = await ArraySession.open({
      runtime,
      name: 'tfjs',
      parameters: variables.map(({ name, shape, dtype }) => {
        requireFloat(name, dtype);
        return { name, shape };
      }),
      plugin: settings.plugin,
      config: settings.config,
      // The adapter's hyper-parameters change in place before every step.
      optimizer: adapter
        ? { kind: adapter.kind, groups: [adapter.hyper], maxNorm: settings.maxNorm }
        : { kind: 'sgd', groups: [noHyper], maxNorm: 0 },
      precision: settings.precision,
    });
    const session = new OptimizerSession(context, optimizer, variables, settings, adapter, arrays);
    for (const variable of variables) arrays.parameter(variable.name).set(valuesOf(variable));
    await arrays.parametersWritten();
    session.#assignAll();
    session.takeStates();
    return session;
  }

  private constructor(
    context: HostContext,
    optimizer: Optimizer,
    variables: readonly Variable[],
    settings: Settings,
    adapter: OptimizerAdapter | null,
    arrays: ArraySession,
  ) {
    this.#context = context;
    this.optimizer = optimizer;
    this.variables = variables;
    this.settings = settings;
    this.adapter = adapter;
    this.arrays = arrays;
  }

  /**
   * A variable that the loss never depends on keeps its value, as a gradient of zero does it to states of
   * zero. One that loses its gradient later is skipped by TensorFlow.js, and would be moved by zero here.
   */
  noteGradient(name: string, missing: boolean): void {
    const first = this.#missing.get(name);
    if (first === undefined) this.#missing.set(name, missing);
    else if (first !== missing) {
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `step ${this.steps + 1}: the variable ${name} has ${missing ? 'lost its' : 'got a'} gradient since the first step`,
        { fix: 'Compile the model again after changing `trainable`.', data: { variable: name } },
      );
    }
  }

  /** Whether the loss does not depend on it. */
  lacksGradient(name: string): boolean {
    return this.#missing.get(name) ?? false;
  }

  /**
   * Variables that the script has replaced since the last step are read again.
   *
   * @returns a digest of what was replaced, 0 for nothing: the ranks must have replaced the same
   */
  takeReplaced(): number {
    let digest = 0;
    const { agreement, core } = this.#context;
    // On the cpu backend dataSync is the variable's own memory, which a script may write into.
    const inPlace = core.getBackend() === 'cpu';
    for (const variable of this.variables) {
      if (variable.isDisposed) {
        throw new DeepSpeedError(
          'TFJS_UNSUPPORTED',
          `the variable ${variable.name} was disposed while it is being trained`,
          { fix: 'Dispose a model after its last step.', data: { variable: variable.name } },
        );
      }
      const written = this.#written.get(variable)!;
      if (variable.dataId === written.dataId) {
        const own = this.arrays.parameter(variable.name);
        if (!inPlace || (written.values && equalBytes(written.values, own))) continue;
      }
      const values = valuesOf(variable);
      this.arrays.parameter(variable.name).set(values);
      this.#written.set(variable, { dataId: variable.dataId, values });
      digest = agreement.bytes(values, agreement.bytes(Buffer.from(variable.name), digest));
    }
    if (digest !== 0) void this.arrays.parametersReplaced();
    return digest;
  }

  /** The rate of the next step before ranks agree on it. */
  learningRate(): number {
    const own = this.adapter?.learningRate() ?? this.optimizer.learningRate ?? 0;
    const { schedule } = this.settings;
    if (!schedule) return own;
    this.#scheduledRate ??= own;
    if (own !== this.#scheduledRate) {
      throw new DeepSpeedError(
        'STRATEGY_CONFLICT',
        `step ${this.steps + 1}: the script wrote the learning rate ${own}, and the config has a scheduler`,
        {
          fix: 'Keep one of them: the callback that writes the rate, or `scheduler` in the config.',
        },
      );
    }
    return schedule.at(this.steps).lr;
  }

  /** Before a step of the engine, which would not see what the forward pass has written. */
  requireUnwritten(): void {
    for (const variable of this.variables) {
      if (variable.dataId === this.#written.get(variable)!.dataId) continue;
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `step ${this.steps + 1}: the forward pass has written the variable ${variable.name}, which is trained`,
        {
          fix: 'Write it between two steps, or compute with a changed copy of it.',
          data: { variable: variable.name },
        },
      );
    }
  }

  /** After a step of the engine: its values become the variables'. */
  stepped(): void {
    this.adapter?.stepped();
    this.steps += 1;
    this.#givenBack = false;
    this.#assignAll();
  }

  /** New tensors, as TensorFlow.js's optimizers make them: a clone of the old value keeps it. */
  #assignAll(): void {
    const { core } = this.#context;
    const copied = copiesNewValues(core);
    for (const variable of this.variables) {
      const own = this.arrays.parameter(variable.name);
      const values = copied ? null : own.slice();
      const tensor = core.tensor(values ?? own, variable.shape);
      variable.assign(tensor);
      tensor.dispose();
      this.#written.set(variable, { dataId: variable.dataId, values });
    }
  }

  /** Reads the states that TensorFlow.js's optimizer holds: it was loaded, or has trained before. */
  takeStates(): void {
    const { adapter } = this;
    const owner = this.arrays.optimizer;
    if (!adapter || !(owner instanceof PartitionedOptimizer)) return;
    const { updated } = owner;
    for (const [index, buffer] of owner.states.entries()) {
      const whole = new Float32Array(buffer.view(), 0, updated.count);
      whole.fill(index === 0 ? adapter.initial : 0);
      const entries = this.#entries(adapter.states[index]!.field);
      for (const [at, variable] of this.variables.entries()) {
        const values = entries[at]?.variable.dataSync() as Float32Array | undefined;
        if (!values) continue;
        const slot = this.arrays.session.layout.byName.get(variable.name)!;
        const part = intersect(slot, updated);
        const from = part.offset - slot.offset;
        if (part.count > 0) {
          whole.set(values.subarray(from, from + part.count), part.offset - updated.offset);
        }
      }
    }
    owner.restore(adapter.steps);
    this.#givenBack = false;
  }

  /** TensorFlow.js's optimizer was given other states, or took a step of its own. */
  replaceAdapter(): void {
    if (!this.adapter) return;
    const fresh = adapterOf(this.#context.core, this.optimizer)!;
    // The engine's recipe holds the first adapter's hyper-parameters, and reads them every step.
    this.adapter = Object.assign(fresh, { hyper: this.adapter.hyper });
    this.takeStates();
  }

  /** Gives the states back to TensorFlow.js's optimizer, whole. Collective where they are partitioned. */
  giveStatesBack(): void {
    const { adapter } = this;
    const owner = this.arrays.optimizer;
    if (!adapter || this.#givenBack || !(owner instanceof PartitionedOptimizer)) return;
    const { core } = this.#context;
    for (const [index, { field, suffix }] of adapter.states.entries()) {
      const state = owner.states[index];
      const whole = state && this.#gather(state, owner.updated);
      const entries = this.#entries(field);
      for (const [at, variable] of this.variables.entries()) {
        const { offset, count } = this.arrays.session.layout.byName.get(variable.name)!;
        // Momentum 0 keeps no state here; what TensorFlow.js would hold then has no effect.
        const values = whole?.slice(offset, offset + count) ?? new Float32Array(count);
        const tensor = core.tensor(values, variable.shape);
        const entry = entries[at];
        if (entry) entry.variable.assign(tensor);
        else {
          entries[at] = {
            originalName: `${variable.name}/${suffix}`,
            variable: core.variable(tensor, false),
          };
        }
        tensor.dispose();
      }
    }
    adapter.giveBack();
    this.#givenBack = true;
  }

  /** An error of a step reaches the strategy once; the session is then over. */
  failed(error: unknown): void {
    if (this.#ended) return;
    const failure = error instanceof Error ? error : new Error(String(error));
    this.#ended = this.arrays.session.lifecycle.run('failed', { error: failure }).catch(() => {});
  }

  async close(): Promise<void> {
    this.#ended ??= this.arrays.session.lifecycle.run('shutdown', {});
    await this.#ended;
  }

  #ended: Promise<void> | undefined;

  #gather(state: NativeBuffer, updated: Shard): Float32Array {
    const { engine, worldSize } = this.#context.runtime;
    const { layout } = this.arrays.session;
    const own = new Float32Array(state.view(), 0, updated.count);
    if (updated.count === layout.total) return own;
    const buffer = engine.allocate(layout.total * 4, {
      category: 'optimizer',
      shared: worldSize > 1,
      name: 'optimizer state to give back',
    });
    const whole = new Float32Array(buffer.view());
    whole.set(own, updated.offset);
    const region = { buffer, byteOffset: 0, count: layout.total, dtype: 'float32' } as const;
    engine.waitSync(engine.allGather(region, [...layout.shards]));
    const copy = whole.slice();
    buffer.dispose();
    return copy;
  }

  #entries(field: string): StateEntry[] {
    const fields = this.optimizer as unknown as Record<string, StateEntry[]>;
    fields[field] ??= [];
    return fields[field];
  }
}

const noHyper = {
  lr: 0,
  beta1: 0,
  beta2: 0,
  eps: 0,
  weightDecay: 0,
  biasCorrection: false,
};

function requireFloat(name: string, dtype: string): void {
  if (dtype === 'float32') return;
  throw new DeepSpeedError(
    'TFJS_UNSUPPORTED',
    `the variable ${name} is of type ${dtype}; only float32 variables are trained`,
    { fix: 'Set `trainable: false` on it.' },
  );
}

function valuesOf(tensor: Tensor): Float32Array {
  return tensor.dataSync() as Float32Array;
}

function equalBytes(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(
    Buffer.from(b.buffer, b.byteOffset, b.byteLength),
  );
}

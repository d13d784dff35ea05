import { DeepSpeedError } from '../../errors.ts';
import { encodeModel, type Graph, numel } from '../../graph/index.ts';
import type { PlannedValue, TrainingPlan } from '../../graph/plan.ts';
import type { Location, SegmentEvent } from '../../hooks/index.ts';
import type {
  Binding,
  ExecutionProvider,
  InstanceId,
  NativeBuffer,
  NativeEngine,
  SessionId,
} from '../../native/index.ts';
import type { Batch } from './batch.ts';
import { type Recomputation, RecomputedNames } from './recomputation.ts';
import { type ResidualStream, residualStreams } from './residual-stream.ts';
import { byteSize, type ProgramKind, Timeline } from './timeline.ts';

/** Where the host keeps what a program is bound to. */
export interface ProgramStorage {
  /** Current value of a parameter as a pass of a segment reads it. */
  parameter(name: string, segment: number, pass: SegmentEvent['pass']): Location;
  /** Where its gradient goes; absent for a program that never runs backward. */
  gradient?(name: string): Location;
  /** int32 cells: `first` tells Accumulate to overwrite, `again` always adds. */
  flags: { buffer: NativeBuffer; first: number; again: number };
}

/**
 * Compiled graphs by content: layers of one model, and shapes seen before, share their sessions. A
 * session is freed when the last program that took it gives it back.
 */
export class SessionCache {
  readonly #engine: NativeEngine;
  readonly #sessions = new Map<string, { session: SessionId; users: number }>();

  constructor(engine: NativeEngine) {
    this.#engine = engine;
  }

  /** Compiles the graph unless another program holds it already. `provider`: what computes it; absent: the processor. */
  take(key: string, graph: Graph, provider?: ExecutionProvider): SessionId {
    let entry = this.#sessions.get(key);
    if (entry === undefined) {
      const session = this.#engine.loadSession(encodeModel(modelOf(graph)), {
        name: graph.name,
        ...(provider && { provider }),
      });
      entry = { session, users: 0 };
      this.#sessions.set(key, entry);
    }
    entry.users += 1;
    return entry.session;
  }

  /** Gives back what `take` gave; its instances must have been released. */
  giveBack(key: string): void {
    const entry = this.#sessions.get(key)!;
    entry.users -= 1;
    if (entry.users > 0) return;
    this.#engine.releaseSession(entry.session);
    this.#sessions.delete(key);
  }

  get size(): number {
    return this.#sessions.size;
  }
}

/** The operator sets of what the planner emits. */
function modelOf(graph: Graph) {
  return {
    irVersion: 10,
    producerName: 'deepspeed-js',
    opsets: new Map([
      ['', 21],
      ['com.microsoft', 1],
      ['deepspeed', 1],
    ]),
    graph,
    metadata: new Map<string, string>(),
  };
}

/**
 * A plan for one batch shape, bound to memory: every value that crosses a segment has a place in one
 * arena, every segment an instance of a shared session. Running it allocates nothing.
 */
export class Program {
  readonly plan: TrainingPlan;
  readonly prologue: InstanceId | undefined;
  readonly forward: readonly InstanceId[] = [];
  readonly backward: readonly (InstanceId | undefined)[] = [];
  /** Forwards to run again before the backward of a segment, and the segments that they are of. */
  readonly again: ReadonlyMap<number, readonly { segment: number; instance: InstanceId }[]>;
  /** Segments that can be left out. */
  readonly residuals: ReadonlyMap<number, ResidualStream>;
  readonly #engine: NativeEngine;
  readonly #sessions: SessionCache;
  readonly #taken: string[] = [];
  readonly #arena: NativeBuffer;
  readonly #inputs: NativeBuffer;
  readonly #places: ReadonlyMap<string, { buffer: NativeBuffer; byteOffset: number }>;
  readonly #values: ReadonlyMap<string, PlannedValue>;
  readonly #recomputed: RecomputedNames;

  constructor(
    engine: NativeEngine,
    sessions: SessionCache,
    plan: TrainingPlan,
    kind: ProgramKind,
    storage: ProgramStorage,
    recomputation: Recomputation,
    provider?: ExecutionProvider,
  ) {
    this.#engine = engine;
    this.#sessions = sessions;
    this.plan = plan;
    this.residuals = residualStreams(plan);
    const timeline = new Timeline(plan, kind, recomputation);
    this.#values = timeline.values;
    const arena = timeline.arena();
    this.#arena = engine.allocate(Math.max(arena.bytes, 64), {
      category: 'activations',
      name: 'activations',
    });
    let inputBytes = 0;
    const inputOffsets = new Map<string, number>();
    for (const input of plan.inputs) {
      inputOffsets.set(input.name, inputBytes);
      inputBytes += Math.ceil(byteSize(input.dtype, input.shape) / 64) * 64;
    }
    this.#inputs = engine.allocate(Math.max(inputBytes, 64), {
      category: 'inputs',
      name: 'inputs',
    });
    const places = new Map<string, Location>();
    for (const [key, byteOffset] of arena.offsets) {
      places.set(key, { buffer: this.#arena, byteOffset });
    }
    for (const [key, byteOffset] of inputOffsets) {
      places.set(key, { buffer: this.#inputs, byteOffset });
    }
    this.#places = places;

    const bind = (
      values: readonly PlannedValue[],
      segment = 0,
      pass: SegmentEvent['pass'] = 'forward',
      nameOf = ({ actual }: PlannedValue) => actual,
    ): Binding[] =>
      values.map((value) => ({
        name: value.formal,
        ...this.#locate(value, nameOf(value), storage, segment, pass),
        dtype: value.dtype,
        dims: value.shape,
      }));
    const compile = (key: string, graph: Graph): SessionId => {
      const session = sessions.take(key, graph, provider);
      this.#taken.push(key);
      return session;
    };
    if (plan.prologue) {
      const { graph, inputs, outputs } = plan.prologue;
      const key = `${plan.key}/prologue`;
      // Counters, positions and tables, which segments read where they lie: nothing for a device.
      const session = sessions.take(key, graph);
      this.#taken.push(key);
      this.prologue = engine.createInstance(session, bind(inputs), bind(outputs));
    }
    const names = new RecomputedNames(plan.segments, recomputation);
    this.#recomputed = names;
    const again = new Map<number, { segment: number; instance: InstanceId }[]>();
    this.again = again;
    for (const [index, segment] of plan.segments.entries()) {
      const program = plan.programs.get(segment.program)!;
      const io = kind === 'training' ? segment.forward : segment.inference;
      const graph = kind === 'training' ? program.forward : program.inference;
      const session = compile(`${segment.program}/${kind}`, graph);
      (this.forward as InstanceId[]).push(
        engine.createInstance(session, bind(io.inputs, index), bind(io.outputs, index)),
      );
      if (kind === 'inference') continue;
      const nameOf = (value: PlannedValue) => names.nameOf(value, index);
      (this.backward as (InstanceId | undefined)[]).push(
        program.backward && segment.backward
          ? engine.createInstance(
              compile(`${segment.program}/backward`, program.backward),
              bind(segment.backward.inputs, index, 'backward', nameOf),
              bind(segment.backward.outputs, index, 'backward', nameOf),
            )
          : undefined,
      );
      again.set(
        index,
        recomputation.before(index).map((other) => {
          const { program: key, forward } = plan.segments[other]!;
          const bindAgain = (values: readonly PlannedValue[]) =>
            bind(values, index, 'backward', (value) => names.nameOf(value, other));
          const instance = engine.createInstance(
            compile(`${key}/training`, plan.programs.get(key)!.forward),
            bindAgain(forward.inputs),
            bindAgain(forward.outputs),
          );
          return { segment: other, instance };
        }),
      );
    }
  }

  /** Bytes of the arena and the inputs. */
  get bytes(): number {
    return this.#arena.bytes + this.#inputs.bytes;
  }

  /** Copies a micro batch into the bound inputs. */
  feed(batch: Batch): void {
    for (const input of this.plan.inputs) {
      const feed = batch.feeds[input.name];
      if (!feed) {
        throw new DeepSpeedError(
          'DATASET_INVALID',
          `the batch has no "${input.name}", which the model takes`,
        );
      }
      const { data } = feed;
      const place = this.#places.get(input.name)!;
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      new Uint8Array(place.buffer.view(), place.byteOffset, bytes.length).set(bytes);
    }
  }

  /** Where a graph output, or `grad.<output>`, lies. */
  place(name: string): Location {
    const place = this.#places.get(name);
    if (!place) throw new DeepSpeedError('INTERNAL', `internal: value ${name} has no place`);
    return place;
  }

  /** Where a segment that runs again reads or writes a value. */
  placeAgain(value: PlannedValue, segment: number): Location {
    return this.place(this.#recomputed.nameOf(value, segment));
  }

  /** A float32 graph output, not copied; valid until the program runs again. */
  read(name: string): Float32Array {
    const { buffer, byteOffset } = this.place(name);
    return new Float32Array(buffer.view(), byteOffset, numel(this.shape(name)));
  }

  shape(name: string): readonly number[] {
    return this.#values.get(name)!.shape;
  }

  dispose(): void {
    const again = [...this.again.values()].flat().map(({ instance }) => instance);
    const instances = [this.prologue, ...this.forward, ...this.backward, ...again];
    for (const instance of instances) {
      if (instance !== undefined) this.#engine.releaseInstance(instance);
    }
    for (const key of this.#taken) this.#sessions.giveBack(key);
    this.#arena.dispose();
    this.#inputs.dispose();
  }

  #locate(
    value: PlannedValue,
    name: string,
    storage: ProgramStorage,
    segment: number,
    pass: SegmentEvent['pass'],
  ): Location {
    switch (value.kind) {
      case 'parameter':
        return storage.parameter(value.actual, segment, pass);
      case 'buffer':
        return storage.gradient!(value.parameter!);
      case 'first': {
        const { buffer, first, again } = storage.flags;
        return { buffer, byteOffset: value.firstUse ? first : again };
      }
      default:
        return this.place(name);
    }
  }
}

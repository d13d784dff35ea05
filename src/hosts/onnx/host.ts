import { DeepSpeedError } from '../../errors.ts';
import { readIn16Bits } from '../../graph/narrow.ts';
import type { TrainingPlan } from '../../graph/plan.ts';
import {
  type AttentionBlocks,
  type FrozenParameter,
  type GradientOwner,
  type Host,
  type HostParameter,
  isSkipped,
  type ParameterOwner,
  type SegmentEvent,
  type SelfAttention,
  type StepPlan,
  takes16Bits,
} from '../../hooks/index.ts';
import { joined, tensorOf } from '../../layout.ts';
import type { ExecutionProvider, NativeBuffer, Work } from '../../native/index.ts';
import type { Runtime } from '../../runtime.ts';
import { type Session, shareParameters } from '../../session.ts';
import type { Batch } from './batch.ts';
import { lossSum, type TrainableModel } from './model.ts';
import { onnxCapabilities, outlineModel, planModel } from './outline.ts';
import { endOfPass } from './pass-failure.ts';
import { Program, SessionCache } from './program.ts';
import { describeProvider, requireProvider } from './provider.ts';
import type { Recomputation } from './recomputation.ts';
import { ScaledResidual } from './residual-stream.ts';
import type { ProgramKind } from './timeline.ts';

export interface OnnxHostOptions {
  /** Fused `deepspeed` operators; false: plain ONNX, for comparison. */
  fuse?: boolean;
  /** Programs (batch shapes) kept compiled and bound. */
  programs?: number;
  /**
   * Segments of one activation checkpoint: backward computes them again from what they read. Default 0, none;
   * a function of how many segments the model has.
   */
  checkpointEvery?: (segments: number) => number;
  /** Embeddings and heads of more elements are moved and computed in tiles of rows. Default: none. */
  tileAbove?: number;
  /** What computes the segments. Default: the processor. */
  provider?: ExecutionProvider | undefined;
}

/** A graph output in engine memory, row-major. */
export interface OutputView {
  data: Float32Array;
  dims: readonly number[];
}

/** What a work that follows another one waits for; 0: there is none yet. */
function behind(work: Work): Work[] {
  return work === 0 ? [] : [work];
}

/**
 * The `onnx` host: forward and backward of a model's differentiated graph, segment by segment, on the
 * engine's compute queue. Everything of a micro batch is enqueued at once; the host waits at its end.
 */
export class OnnxHost implements Host {
  readonly name = 'onnx';
  readonly capabilities = onnxCapabilities;
  readonly segments: readonly string[];
  readonly parameters: readonly HostParameter[];
  readonly skippable: readonly number[];
  readonly activationBytes: number;
  readonly frozen: readonly FrozenParameter[];
  readonly longestSequence: number | 'fixed' | undefined;
  readonly #runtime: Runtime;
  readonly #model: TrainableModel;
  readonly #options: OnnxHostOptions & Required<Omit<OnnxHostOptions, 'provider'>>;
  readonly #sessions: SessionCache;
  readonly #first: Batch;
  #attentionBlocks: ((attention: SelfAttention) => AttentionBlocks) | undefined;
  readonly #plans = new Map<string, TrainingPlan>();
  readonly #programs = new Map<string, Program>();
  readonly #recomputation: Recomputation;
  #bound: { session: Session; gradients: GradientOwner } | undefined;
  readonly #flags: NativeBuffer;

  /** @param first any batch of the shape that training will mostly see */
  constructor(
    runtime: Runtime,
    model: TrainableModel,
    first: Batch,
    options: OnnxHostOptions = {},
  ) {
    this.#runtime = runtime;
    this.#model = model;
    this.#first = first;
    this.#options = {
      fuse: true,
      programs: 8,
      checkpointEvery: () => 0,
      tileAbove: Infinity,
      ...options,
    };
    if (options.provider) requireProvider(runtime.engine, options.provider);
    this.#sessions = new SessionCache(runtime.engine);
    this.#flags = runtime.engine.allocate(128, { category: 'inputs', name: 'flags' });
    const outline = outlineModel(model, this.#plan(first), this.#options.checkpointEvery);
    this.segments = outline.segments;
    this.parameters = outline.parameters;
    this.skippable = outline.skippable;
    this.frozen = outline.frozen;
    this.activationBytes = outline.activationBytes;
    this.longestSequence = model.hasFixedSizes ? 'fixed' : model.maxLength;
    this.#recomputation = outline.recomputation;
    warnAboutUnused(this.frozen.filter(({ name }) => model.isTrainable(name)));
  }

  replaceAttention(blocksOf: (attention: SelfAttention) => AttentionBlocks) {
    this.#attentionBlocks = blocksOf;
    // Which segments there are does not depend on attention: what was announced stays true.
    this.#plans.clear();
    return this.#plan(this.#first).sparseAttention!;
  }

  /** Lines that say what the graph passes replaced. */
  get report(): readonly string[] {
    return [...this.#plans.values()][0]?.replaced ?? [];
  }

  /** What computes in the processor's stead, and how it makes up for our operators; undefined: nothing does. */
  get providerReport(): string | undefined {
    const { provider } = this.#options;
    const [plan] = this.#plans.values();
    return provider && plan?.lowered ? describeProvider(provider, plan.lowered) : undefined;
  }

  /** Connects to a session's memory and writes the model's initial values into it. */
  async bind(session: Session, gradients: GradientOwner): Promise<void> {
    this.#bound = { session, gradients };
    for (const [shape, plan] of this.#plans) this.#plans.set(shape, this.#asStored(plan));
    for (const parameter of [...this.parameters, ...this.frozen]) {
      const { name, start: first } = tensorOf(parameter);
      const initial = this.#model.initial(name);
      ownerOf(session, parameter.name).write(parameter.name, (start, count) =>
        initial.read(first + start, count),
      );
    }
    await shareParameters(session);
    await session.lifecycle.run('parametersWritten', {});
  }

  /** A parameter's value, fp32: `ParameterOwner.read` says when it is a copy that all ranks must ask for. */
  parameter(name: string): Float32Array {
    const { session } = this.#required();
    const slots = session.layout.tensors.get(name) ?? session.frozen!.layout.tensors.get(name)!;
    const owner = ownerOf(session, slots[0]!.name);
    return slots.length === 1
      ? owner.read(slots[0]!.name)
      : joined(slots, (slot) => owner.read(slot.name));
  }

  /** Every rank must run as many forward passes as any other. */
  get passesAreCollective(): boolean {
    return this.#required().session.parameters.gathers;
  }

  /**
   * Forward and backward of one micro batch.
   *
   * @param scale what the sum of losses is multiplied by before backward
   * @param random seed of the run, for dropout
   * @returns the sum of the losses over the batch's targets
   */
  async trainMicroBatch(
    plan: StepPlan,
    batch: Batch,
    scale: number,
    random: number,
  ): Promise<number> {
    const { session, gradients } = this.#required();
    const { lifecycle } = session;
    const { engine } = this.#runtime;
    const program = this.#program(batch, 'training');
    program.feed(withRandomness(batch, { seed: random, step: plan.step, training: true }));
    this.#setFlags(plan.microBatch === 0 || !gradients.accumulatesLocally);
    const seed = program.place(`grad.${lossSum}`);
    new Float32Array(seed.buffer.view(), seed.byteOffset, 1)[0] = scale;
    let last = this.#enqueueForward(program, session, plan);
    for (let segment = program.backward.length - 1; segment >= 0; segment -= 1) {
      const residual = this.#residual(program, plan, segment);
      const event = { plan, segment, pass: 'backward' } as const;
      if (isSkipped(plan, segment)) {
        if (program.again.get(segment)!.some((one) => !isSkipped(plan, one.segment))) {
          lifecycle.fire('acquire', event);
          last = this.#runAgain(program, session, plan, segment, last);
          lifecycle.fire('release', { ...event, work: last });
        }
        last = residual!.passGradientOn(last) ?? last;
        continue;
      }
      const instance = program.backward[segment];
      lifecycle.fire('acquire', event);
      // A segment before the first trainable parameter has no backward; its place in the order stays.
      if (instance !== undefined) {
        last = residual?.scaleGradient(last) ?? last;
        last = this.#runAgain(program, session, plan, segment, last);
        const parameters = session.parameters.ready(segment, 'backward');
        last = engine.run(instance, [...parameters, ...gradients.ready(segment), ...behind(last)]);
        last = residual?.addGradient(last) ?? last;
      }
      lifecycle.fire('backward', { ...event, work: last });
      lifecycle.fire('release', { ...event, work: last });
    }
    await endOfPass(
      engine.wait(last),
      `step ${plan.step + 1}, micro batch ${plan.microBatch + 1} of ${plan.microBatches}`,
    );
    return program.read(lossSum)[0]!;
  }

  /**
   * Forward only, with dropout off.
   *
   * @returns the sum of the losses, and the outputs asked for: valid until the next call
   */
  async evaluate(
    batch: Batch,
    step: number,
    outputs: readonly string[] = [],
  ): Promise<{ loss: number; outputs: ReadonlyMap<string, OutputView> }> {
    const { session } = this.#required();
    const program = this.#program(batch, 'inference');
    program.feed(withRandomness(batch, { seed: 0, step, training: false }));
    const plan = session.lifecycle.fire('planStep', {
      training: false,
      step,
      microBatch: 0,
      microBatches: 1,
    });
    const last = this.#enqueueForward(program, session, plan);
    await endOfPass(this.#runtime.engine.wait(last), `evaluation after step ${step}`);
    return {
      loss: program.read(lossSum)[0]!,
      outputs: new Map(
        outputs.map((name) => [name, { data: program.read(name), dims: program.shape(name) }]),
      ),
    };
  }

  /** Each work depends on the one before, so that a segment that fails fails the pass and all that uses it. */
  #enqueueForward(program: Program, { lifecycle, parameters }: Session, plan: StepPlan): Work {
    const { engine } = this.#runtime;
    let last: Work = 0;
    if (program.prologue !== undefined) last = engine.run(program.prologue);
    for (const [segment, instance] of program.forward.entries()) {
      const residual = this.#residual(program, plan, segment);
      if (isSkipped(plan, segment)) {
        last = residual!.passOn(last);
        continue;
      }
      const event = { plan, segment, pass: 'forward' } as const;
      lifecycle.fire('acquire', event);
      last = engine.run(instance, [...parameters.ready(segment, 'forward'), ...behind(last)]);
      last = residual?.mix(last) ?? last;
      lifecycle.fire('forward', { ...event, work: last });
      lifecycle.fire('release', { ...event, work: last });
    }
    return last;
  }

  /**
   * Runs again what an activation checkpoint that ends with `segment` has not kept, as the plan has it: left out,
   * or scaled. What the last one hands on nobody reads again.
   */
  #runAgain(
    program: Program,
    { parameters }: Session,
    plan: StepPlan,
    segment: number,
    after: Work,
  ): Work {
    const ready = parameters.ready(segment, 'backward');
    let last = after;
    for (const { segment: other, instance } of program.again.get(segment)!) {
      const residual = this.#residual(program, plan, other);
      const skipped = isSkipped(plan, other);
      if (!skipped) last = this.#runtime.engine.run(instance, [...ready, ...behind(last)]);
      if (other === segment) break;
      if (skipped) last = residual!.passOn(last, true);
      else last = residual?.mix(last, true) ?? last;
    }
    return last;
  }

  /** What a plan's factor on a segment's residual asks for; undefined for factor 1. */
  #residual(program: Program, plan: StepPlan, segment: number): ScaledResidual | undefined {
    const scale = plan.residualScales?.get(segment) ?? 1;
    return scale === 1
      ? undefined
      : new ScaledResidual(this.#runtime.engine, program, segment, scale);
  }

  #setFlags(first: boolean): void {
    const flags = new Int32Array(this.#flags.view());
    flags[firstFlag / 4] = first ? 1 : 0;
    flags[againFlag / 4] = 0;
  }

  #required() {
    if (this.#bound) return this.#bound;
    throw new DeepSpeedError('INTERNAL', 'internal: the host is not bound to a session');
  }

  #plan(batch: Batch): TrainingPlan {
    const key = shapeKey(batch);
    let plan = this.#plans.get(key);
    if (!plan) {
      const { fuse, tileAbove, provider } = this.#options;
      const attentionBlocks = this.#attentionBlocks;
      const lowerArithmetic = provider !== undefined;
      plan = this.#asStored(
        planModel(this.#model, batch, { fuse, lowerArithmetic, attentionBlocks, tileAbove }),
      );
      this.#plans.set(key, plan);
    }
    return plan;
  }

  /** The plan over parameters as the session stores them, once there is one. */
  #asStored(plan: TrainingPlan): TrainingPlan {
    const storage = this.#bound?.session.precision.storage ?? 'float32';
    if (storage === 'float32') return plan;
    return readIn16Bits(plan, takes16Bits(this), storage);
  }

  /** The program of a batch shape; the least recently used one is given up for a new one. */
  #program(batch: Batch, kind: ProgramKind): Program {
    const key = `${kind} ${shapeKey(batch)}`;
    const known = this.#programs.get(key);
    if (known) {
      this.#programs.delete(key);
      this.#programs.set(key, known);
      return known;
    }
    const { session, gradients } = this.#required();
    if (this.#programs.size >= this.#options.programs) this.#giveUpOldest();
    const storage = {
      parameter: (name: string, segment: number, pass: SegmentEvent['pass']) =>
        ownerOf(session, name).location(name, segment, pass),
      gradient: (name: string) => gradients.location(name),
      flags: { buffer: this.#flags, first: firstFlag, again: againFlag },
    };
    const { engine } = this.#runtime;
    const plan = this.#plan(batch);
    const program = new Program(
      engine,
      this.#sessions,
      plan,
      kind,
      storage,
      this.#recomputation,
      this.#options.provider,
    );
    this.#programs.set(key, program);
    return program;
  }

  #giveUpOldest(): void {
    const [oldest, program] = this.#programs.entries().next().value!;
    program.dispose();
    this.#programs.delete(oldest);
    // The first plan is what reports speak of; any other goes with its last program.
    const [first] = this.#plans.values();
    const used = [...this.#programs.values()].some(({ plan }) => plan === program.plan);
    for (const [shape, plan] of this.#plans) {
      if (plan === program.plan && plan !== first && !used) this.#plans.delete(shape);
    }
    this.#warnAboutShapes();
  }

  #evictions = 0;

  #warnAboutShapes(): void {
    this.#evictions += 1;
    if (this.#evictions !== this.#options.programs) return;
    process.emitWarning(
      `the batches have more than ${this.#options.programs} different shapes; each new one is compiled anew`,
      {
        code: 'DEEPSPEED_JS_SHAPES',
        detail: 'Raise padToMultipleOf, or cut samples to one length.',
      },
    );
  }
}

const firstFlag = 0;
const againFlag = 64;

function shapeKey(batch: Batch): string {
  const shapes = Object.entries(batch.feeds).map(([name, { dims }]) => `${name}:${dims.join('x')}`);
  return `${batch.variant ?? ''} ${shapes.join(' ')}`;
}

/** Adds what `deepspeed.Dropout` reads: the counters of its generator. */
function withRandomness(
  batch: Batch,
  { seed, step, training }: { seed: number; step: number; training: boolean },
): Batch {
  const counters = [seed, step, ...batch.sampleIndices];
  return {
    ...batch,
    feeds: {
      ...batch.feeds,
      rng: { dtype: 'int64', dims: [counters.length], data: BigInt64Array.from(counters, BigInt) },
      training: { dtype: 'bool', dims: [1], data: Uint8Array.of(training ? 1 : 0) },
    },
  };
}

/** A parameter without a gradient keeps its value, weight decay included, as in PyTorch. */
function warnAboutUnused(unused: readonly { name: string }[]): void {
  if (unused.length === 0) return;
  const names = unused.slice(0, 5).map(({ name }) => name);
  const more = unused.length > names.length ? ` and ${unused.length - names.length} more` : '';
  process.emitWarning(
    `the loss does not depend on ${names.join(', ')}${more}: nothing changes them`,
    { code: 'DEEPSPEED_JS_UNUSED_PARAMETERS' },
  );
}

/** Who holds a parameter, one that training changes or one that it does not. */
function ownerOf({ layout, parameters, frozen }: Session, name: string): ParameterOwner {
  return layout.byName.has(name) ? parameters : frozen!.parameters;
}

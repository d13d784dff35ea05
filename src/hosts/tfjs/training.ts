/** `fit`, `fitDataset` and `trainOnBatch`: what happens to each batch of a model. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { DeepSpeedError } from '../../errors.ts';
import type { GradientSink } from '../loop/array-session.ts';
import { lookAt } from './backend-memory.ts';
import { type HostContext, numberOf, sliceRows } from './context.ts';
import type {
  Batch,
  BatchFunction,
  LayersModel,
  NamedGradients,
  Optimizer,
  Tensor,
  Variable,
} from './library.ts';
import { undoingMoves } from './forward-moves.ts';
import { checkModel, type ModelFacts } from './model-check.ts';
import type { OptimizerSession } from './optimizer-session.ts';
import type { SharedNumbers } from './random.ts';
import { nameOf, ownFunctions, tryOnParts } from './own-functions.ts';
import { microRows, type Rows, rowsOfRank } from './rows.ts';
import { update } from './update.ts';
import {
  differingAgain,
  differingGradients,
  differingMoves,
  differingNumbers,
  requireNone,
  type WholeBatch,
} from './verify.ts';

/** Takes the gradients of the minimisation that a train function runs. */
type Capture = (f: () => Tensor, optimizer: Optimizer, variables: Variable[]) => Tensor;

export class ModelTraining {
  readonly #context: HostContext;
  readonly #sessions = new WeakMap<Optimizer, OptimizerSession>();
  readonly #facts = new WeakMap<LayersModel, ModelFacts>();
  /** What has been checked, by the lists of loss functions that `compile` makes. */
  readonly #verified = new WeakSet<object>();
  readonly #tried = new WeakSet<object>();
  #capture: Capture | null = null;

  constructor(context: HostContext) {
    this.#context = context;
  }

  /** The minimisation inside a train function that is being run for its gradients, if any. */
  get capture(): Capture | null {
    return this.#capture;
  }

  session(optimizer: Optimizer): OptimizerSession | undefined {
    return this.#sessions.get(optimizer);
  }

  adopt(model: LayersModel, session: OptimizerSession): void {
    const { declared, verifyFirstBatch, microBatches } = session.settings;
    const own = verifyFirstBatch ? [] : ownFunctions(model, this.#context.builtIn);
    const facts = checkModel(model, declared, own);
    if (facts.synchronised && microBatches > 1) {
      throw new DeepSpeedError(
        'HOST_LACKS_CAPABILITY',
        `gradient_accumulation_steps ${microBatches} would normalise each part of a batch by itself: ${model.name} has BatchNormalization`,
        { fix: 'Set gradient_accumulation_steps to 1.' },
      );
    }
    this.#sessions.set(session.optimizer, session);
    // A layer of the script's own may have been found to move variables.
    if (!this.#facts.get(model)?.synchronised) this.#facts.set(model, facts);
  }

  /** One call of a train function: one optimizer step. */
  step(model: LayersModel, original: BatchFunction, batch: Batch): Tensor[] {
    try {
      return this.#step(model, original, batch);
    } catch (error) {
      this.#sessions.get(model.optimizer_!)?.failed(error);
      throw error;
    }
  }

  #step(model: LayersModel, original: BatchFunction, batch: Batch): Tensor[] {
    const context = this.#context;
    const { core, worldSize } = context;
    const session = this.#sessions.get(model.optimizer_!);
    const facts = this.#facts.get(model);
    if (!session || !facts) {
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `the model ${model.name} is trained by other means than fit, fitDataset and trainOnBatch`,
        { fix: 'Train it by one of the three, or by a loop over optimizer.minimize.' },
      );
    }
    const { settings } = session;
    const total = batch[0]!.shape[0]!;
    this.#requireBatchSize(total, session);
    const rate = this.#agree(model, session, batch, total);
    const comparing = worldSize > 1 && settings.verifyFirstBatch;
    const verifies = comparing && !this.#verified.has(model.lossFunctions);
    // One rank draws from a script's own Math.random as one process does.
    const asAlone = context.streams.follow() && worldSize === 1;
    const exact = settings.exactRandom || verifies || asAlone;
    // A rank without rows would leave the others waiting where a forward pass needs all of them.
    const replicated = total < worldSize && (facts.synchronised || exact);
    const alike = exact || replicated;
    const rows = replicated
      ? { start: 0, count: total, total }
      : rowsOfRank(total, context.rank, worldSize);

    const { shared } = context.streams;
    shared.record();
    const whole =
      verifies && !replicated ? this.#wholeBatch(session, original, batch, shared) : null;
    const sums = new Array<number>(1 + model.metricsTensors.length).fill(0);
    const kept: NamedGradients[] = [];
    const { microBatches } = settings;
    for (let index = 0; index < microBatches; index += 1) {
      const plan = { training: true, step: session.steps, microBatch: index, microBatches };
      session.arrays.trainMicroBatch(plan, (sink) => {
        const micro = microRows(rows, index, microBatches);
        if (micro.count === 0) return writeZeros(session, sink);
        const weight = replicated ? micro.count / (total * worldSize) : micro.count / total;
        if (alike) shared.rewind();
        const pass = { rows: micro, exact: alike };
        const capture = this.#captureInto(session, sink, weight, kept);
        const outputs = this.#run(capture, pass, original, batch, micro);
        for (const [at, value] of outputs.entries()) sums[at]! += weight * value;
      });
    }
    // The check draws what no other number of ranks would: it must not move the stream that all share.
    if (whole && !settings.exactRandom) shared.rewind();
    shared.stop();
    const totals = context.sum(sums);
    if (whole) this.#compare(model, session, whole, { totals, kept });
    if (comparing) this.#tryOwnFunctions(model, session, batch);
    update(context, session, { learningRate: rate, kept, loss: totals[0]!, samples: total });
    core.dispose(kept);
    return Array.from(totals, (value) => core.scalar(value));
  }

  /** The parts of a batch with the whole of it: the same on all ranks, or the end of the run. */
  #compare(
    model: LayersModel,
    session: OptimizerSession,
    whole: WholeBatch,
    { totals, kept }: { totals: Float64Array; kept: readonly NamedGradients[] },
  ): void {
    const { declared } = session.settings;
    const metrics = model.metricsTensors.map(([metric], index) =>
      declared.has(nameOf(metric)) ? null : model.metricsNames[index + 1]!,
    );
    const names = ['loss', ...metrics];
    const found = [
      ...differingAgain(names, whole.numbers, whole.again),
      ...differingNumbers(names, whole.numbers, totals),
      ...differingGradients(this.#context, session, whole, kept),
      ...differingMoves(whole.moved),
    ];
    requireNone(model.name, gatherJsonSync(this.#context.runtime, found));
    this.#verified.add(model.lossFunctions);
    // What moves with every pass moves on a rank without rows, too.
    if (whole.moved.length > 0) this.#facts.set(model, { synchronised: true });
  }

  /** Until a batch's targets can tell; the same on every rank. */
  #tryOwnFunctions(model: LayersModel, session: OptimizerSession, batch: Batch): void {
    if (this.#tried.has(model.lossFunctions)) return;
    const { core, builtIn } = this.#context;
    const { declared } = session.settings;
    const own = ownFunctions(model, builtIn).filter(({ name }) => !declared.has(name));
    const { differences, settled } = tryOnParts(core, model, own, batch);
    requireNone(model.name, [differences]);
    if (settled) this.#tried.add(model.lossFunctions);
  }

  #requireBatchSize(total: number, { settings: { trainBatchSize } }: OptimizerSession): void {
    if (trainBatchSize === null || total <= trainBatchSize) return;
    throw new DeepSpeedError(
      'STRATEGY_CONFLICT',
      `the script trains on batches of ${total} rows, and the config says train_batch_size ${trainBatchSize}`,
      { fix: "Leave train_batch_size out of the config: the script's batch size is it." },
    );
  }

  /** @returns rank 0's learning rate */
  #agree(model: LayersModel, session: OptimizerSession, batch: Batch, rows: number): number {
    const { worldSize } = this.#context;
    const replaced = session.takeReplaced();
    const learningRate = session.learningRate();
    if (worldSize === 1) return learningRate;
    const { agreement } = this.#context;
    return agreement.on({
      what: `step ${session.steps + 1} of ${model.name}`,
      rows,
      digest: agreement.digest(batch, replaced),
      value: learningRate,
    });
  }

  /** Runs a train function over some rows of the batch; its numbers. */
  #run(
    capture: Capture,
    pass: { rows: Rows; exact: boolean },
    original: BatchFunction,
    batch: Batch,
    rows: Rows,
  ): number[] {
    const context = this.#context;
    const { core } = context;
    const parts = batch.map((tensor) => tensor && sliceRows(core, tensor, rows));
    const compute = () => context.during(pass, () => original(parts));
    let captured: Optimizer | undefined;
    this.#capture = (f, optimizer, variables) => {
      captured = optimizer;
      return capture(f, optimizer, variables);
    };
    try {
      const outputs = pass.exact ? compute() : context.streams.locally(compute);
      if (!captured) refuseOwnMinimize();
      const numbers = outputs.map(numberOf);
      core.dispose(outputs);
      return numbers;
    } finally {
      this.#capture = null;
      for (const [index, tensor] of parts.entries()) if (tensor !== batch[index]) tensor?.dispose();
    }
  }

  /** Gradients of `weight` times the loss, on their way to the engine. */
  #captureInto(
    session: OptimizerSession,
    sink: GradientSink,
    weight: number,
    kept: NamedGradients[],
  ): Capture {
    const { core } = this.#context;
    const scale = weight * session.arrays.gradients.lossScale;
    return (f, optimizer, variables) => {
      requireSameVariables(session, variables);
      const { loss, grads } = this.#gradients(f, optimizer, variables, scale);
      for (const { name } of session.variables) {
        const gradient = grads[name];
        session.noteGradient(name, gradient == null);
        sink.write(name, gradient ? lookAt(core, gradient) : null);
        if (gradient) core.keep(gradient);
      }
      kept.push(grads);
      return core.scalar(loss);
    };
  }

  #gradients(f: () => Tensor, optimizer: Optimizer, variables: Variable[], scale: number) {
    const { core } = this.#context;
    let loss = 0;
    const { value, grads } = optimizer.computeGradients(() => {
      const cost = f();
      loss = numberOf(cost);
      return scale === 1 ? cost : core.mul(cost, scale);
    }, variables);
    value.dispose();
    return { loss, grads };
  }

  /** The same batch, whole, on this rank alone: nothing is applied, and nothing of it remains. */
  #wholeBatch(
    session: OptimizerSession,
    original: BatchFunction,
    batch: Batch,
    shared: SharedNumbers,
  ): WholeBatch {
    const { core } = this.#context;
    const gradients = new Map<string, Float32Array | null>();
    const total = batch[0]!.shape[0]!;
    const rows = { start: 0, count: total, total };
    const capture: Capture = (f, optimizer, variables) => {
      const { loss, grads } = this.#gradients(f, optimizer, variables, 1);
      for (const { name } of session.variables) {
        const gradient = grads[name];
        gradients.set(name, gradient ? (gradient.dataSync().slice() as Float32Array) : null);
      }
      core.dispose(grads);
      return core.scalar(loss);
    };
    const forward: Capture = (f) => core.tidy(() => core.scalar(numberOf(f())));
    const run = (how: Capture) => {
      const done = undoingMoves(core, () =>
        this.#run(how, { rows, exact: true }, original, batch, rows),
      );
      shared.rewind();
      return done;
    };
    const { result: numbers, moved } = run(capture);
    return { numbers, gradients, moved, again: run(forward).result };
  }
}

/** Its gradients have been applied already, and nobody has averaged them. */
function refuseOwnMinimize(): never {
  throw new DeepSpeedError(
    'TFJS_UNSUPPORTED',
    "the optimizer's own minimize() does not call that of TensorFlow.js, where gradients are averaged over ranks",
    {
      fix: 'Override applyGradients, which gets the averaged gradients, or call super.minimize().',
    },
  );
}

function writeZeros(session: OptimizerSession, sink: GradientSink): void {
  for (const { name } of session.variables) sink.write(name, null);
}

function requireSameVariables(session: OptimizerSession, variables: readonly Variable[]): void {
  const same =
    variables.length === session.variables.length &&
    variables.every((variable, index) => variable === session.variables[index]);
  if (same) return;
  throw new DeepSpeedError(
    'TFJS_UNSUPPORTED',
    'one optimizer trains two sets of variables, whose states TensorFlow.js would mix up',
    { fix: 'Give each model an optimizer of its own.' },
  );
}

/** `fit`, `fitDataset` and `trainOnBatch`: what happens to each batch of a model. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { DeepSpeedError } from '../../errors.ts';
import type { GradientSink } from '../loop/array-session.ts';
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
import { checkModel, type ModelFacts } from './model-check.ts';
import type { OptimizerSession } from './optimizer-session.ts';
import { microRows, type Rows, rowsOfRank } from './rows.ts';
import { differingGradients, differingNumbers, requireNone, type WholeBatch } from './verify.ts';

/** Takes the gradients of the minimisation that a train function runs. */
type Capture = (f: () => Tensor, optimizer: Optimizer, variables: Variable[]) => Tensor;

export class ModelTraining {
  readonly #context: HostContext;
  readonly #sessions = new WeakMap<Optimizer, OptimizerSession>();
  readonly #facts = new WeakMap<LayersModel, ModelFacts>();
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
    const facts = checkModel(model, declared, verifyFirstBatch);
    if (facts.synchronised && microBatches > 1) {
      throw new DeepSpeedError(
        'HOST_LACKS_CAPABILITY',
        `gradient_accumulation_steps ${microBatches} would normalise each part of a batch by itself: ${model.name} has BatchNormalization`,
        { fix: 'Set gradient_accumulation_steps to 1.' },
      );
    }
    this.#sessions.set(session.optimizer, session);
    this.#facts.set(model, facts);
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
    const verifies = worldSize > 1 && settings.verifyFirstBatch && !session.verified;
    const exact = settings.exactRandom || verifies;
    // A rank without rows would leave the others waiting where a forward pass needs all of them.
    const replicated = total < worldSize && (facts.synchronised || exact);
    const rows = replicated
      ? { start: 0, count: total, total }
      : rowsOfRank(total, context.rank, worldSize);

    const before = context.streams.shared.state;
    const whole =
      verifies && !replicated ? this.#wholeBatch(model, session, original, batch) : null;
    const sums = new Array<number>(1 + model.metricsTensors.length).fill(0);
    const kept: NamedGradients[] = [];
    const { microBatches } = settings;
    for (let index = 0; index < microBatches; index += 1) {
      const plan = { training: true, step: session.steps, microBatch: index, microBatches };
      session.arrays.trainMicroBatch(plan, (sink) => {
        const micro = microRows(rows, index, microBatches);
        if (micro.count === 0) return writeZeros(session, sink);
        const weight = replicated ? micro.count / (total * worldSize) : micro.count / total;
        if (exact) context.streams.shared.state = before;
        const pass = { rows: micro, exact };
        const capture = this.#captureInto(session, sink, weight, kept);
        const outputs = this.#run(capture, pass, original, batch, micro);
        for (const [at, value] of outputs.entries()) sums[at]! += weight * value;
      });
    }
    // The check draws what no other number of ranks would: it must not move the stream that all share.
    if (!settings.exactRandom) context.streams.shared.state = before;
    const totals = context.sum(sums);
    if (whole) {
      const names = model.metricsNames;
      const found = [
        ...differingNumbers(names, whole.numbers, totals),
        ...differingGradients(context, session, whole, kept),
      ];
      requireNone(model.name, gatherJsonSync(context.runtime, found));
    }
    session.verified = true;
    this.#update(session, rate, kept, totals[0]!, total);
    core.dispose(kept);
    return Array.from(totals, (value) => core.scalar(value));
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
      learningRate,
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
    this.#capture = capture;
    try {
      const outputs = pass.exact ? compute() : context.streams.locally(compute);
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
        this.#noteMissing(session, name, gradient == null);
        sink.write(name, gradient ? (gradient.dataSync() as Float32Array) : null);
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

  readonly #missing = new WeakMap<OptimizerSession, Map<string, boolean>>();

  /**
   * A variable that the loss never depends on keeps its value, as a gradient of zero does it to states of
   * zero. One that loses its gradient later is skipped by TensorFlow.js, and would be moved by zero here.
   */
  #noteMissing(session: OptimizerSession, name: string, missing: boolean): void {
    let known = this.#missing.get(session);
    if (!known) {
      known = new Map();
      this.#missing.set(session, known);
    }
    const first = known.get(name);
    if (first === undefined) known.set(name, missing);
    else if (first !== missing) {
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `step ${session.steps + 1}: the variable ${name} has ${missing ? 'lost its' : 'got a'} gradient since the first step`,
        { fix: 'Compile the model again after changing `trainable`.', data: { variable: name } },
      );
    }
  }

  /** The same batch, whole, on this rank alone: nothing is applied, and nothing of it remains. */
  #wholeBatch(
    model: LayersModel,
    session: OptimizerSession,
    original: BatchFunction,
    batch: Batch,
  ): WholeBatch {
    const { core, streams } = this.#context;
    const { state } = streams.shared;
    // Moving averages move in a forward pass of training.
    const moving = model.nonTrainableWeights.map((weight) => {
      const variable = weight.read();
      return { variable, value: variable.clone() };
    });
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
    const numbers = this.#run(capture, { rows, exact: true }, original, batch, rows);
    for (const { variable, value } of moving) {
      variable.assign(value);
      value.dispose();
    }
    streams.shared.state = state;
    return { numbers, gradients };
  }

  #update(
    session: OptimizerSession,
    learningRate: number,
    kept: readonly NamedGradients[],
    loss: number,
    samples: number,
  ): void {
    if (!session.adapter) {
      this.#applyOwn(session);
      session.steps += 1;
      return;
    }
    const { steps: step, settings, arrays, adapter } = session;
    adapter.prepare(learningRate);
    const betas = settings.schedule?.at(step).betas;
    const { microBatches } = settings;
    const { gradientNorm, overflows, skipped, lossScale } = arrays.step({
      plan: { training: true, step, microBatch: microBatches - 1, microBatches },
      learningRates: [adapter.hyper.lr],
      ...(betas && { betas }),
    });
    if (overflows > 0 && !skipped) this.#nameNonFinite(session, kept);
    const { lifecycle } = arrays.session;
    if (skipped) {
      session.steps += 1;
      lifecycle.fire('stepSkipped', { step: step + 1, overflows });
    } else session.stepped();
    lifecycle.fire('metrics', {
      step: step + 1,
      loss,
      learningRate,
      gradientNorm,
      tokens: samples,
      samples,
      skipped,
      lossScale,
    });
  }

  /** A user's own optimizer gets the averaged gradients and runs as it is, on every rank. */
  #applyOwn(session: OptimizerSession): void {
    const { core, runtime } = this.#context;
    const { gradients, session: inner } = session.arrays;
    const { whole, after } = gradients.reduced();
    for (const work of after) runtime.engine.waitSync(work);
    const scale = 1 / gradients.lossScale;
    core.tidy(() => {
      const list = session.variables.map(({ name, shape }) => {
        const { offset, count } = inner.layout.byName.get(name)!;
        const { buffer, byteOffset } = whole!;
        const values = new Float32Array(buffer.view(), byteOffset + offset * 4, count).slice();
        const tensor = core.tensor(values, shape);
        const missing = this.#missing.get(session)?.get(name);
        if (missing) return { name, tensor: undefined };
        return { name, tensor: scale === 1 ? tensor : core.mul(tensor, scale) };
      });
      session.optimizer.applyGradients(list);
    });
  }

  /** Which rank's gradients were not finite: all ranks stop with the same words. */
  #nameNonFinite(session: OptimizerSession, kept: readonly NamedGradients[]): never {
    const own = session.variables.find(({ name }) =>
      kept.some(
        (grads) => !(grads[name]?.dataSync() as Float32Array | undefined)?.every(Number.isFinite),
      ),
    );
    const all = gatherJsonSync(this.#context.runtime, own?.name ?? null);
    const named = all.flatMap((name, rank) => (name ? [`${name} on rank ${rank}`] : []));
    throw new DeepSpeedError(
      'LOSS_NOT_FINITE',
      `step ${session.steps + 1}: gradients are not finite: ${named.join(', ') || 'their sum over ranks overflows'}`,
      { data: { step: session.steps + 1, variables: all } },
    );
  }
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

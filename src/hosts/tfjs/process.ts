/** The host of one process: hooks into TensorFlow.js when the script loads it. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { DeepSpeedError } from '../../errors.ts';
import { DEFAULT_HANG_TIMEOUT_MS, type RunEnvironment } from '../../launcher/run-environment.ts';
import { patchBatchNorm } from './batch-norm.ts';
import { HostContext } from './context.ts';
import { splitEvaluation } from './evaluation.ts';
import { patchRandomOperations } from './exact-random.ts';
import { installHooks } from './install.ts';
import { leaveWithReason } from './leaving.ts';
import type { Core, Data, Layers, LayersModel, Optimizer } from './library.ts';
import { Loops } from './loops.ts';
import { OptimizerSession } from './optimizer-session.ts';
import { adapterOf } from './optimizers.ts';
import { TrainingQueue } from './queue.ts';
import { patchSaving } from './save.ts';
import { refuseStdin } from './stdin.ts';
import { settingsFor, type Settings, type StrategyOptions } from './settings.ts';
import { ModelTraining } from './training.ts';

// A registered symbol: the preload and the script may load two copies of this module.
const hostKey = Symbol.for('deepspeed-js.tfjs');
type Store = { [hostKey]?: TfjsHost };

/** The host of this process; made by the launcher's preload, or when `deepspeed-js/tfjs` is imported. */
export function installHost(run: RunEnvironment | null): TfjsHost {
  const store = globalThis as Store;
  store[hostKey] ??= new TfjsHost(run);
  return store[hostKey];
}

export class TfjsHost {
  readonly #context: HostContext;
  readonly #training: ModelTraining;
  readonly #loops: Loops;
  readonly #queue: TrainingQueue;
  readonly #options = new Map<LayersModel, StrategyOptions>();

  constructor(run: RunEnvironment | null) {
    this.#context = new HostContext(run);
    this.#training = new ModelTraining(this.#context);
    this.#queue = new TrainingQueue(
      this.#context.worldSize,
      run?.hangTimeoutMs ?? DEFAULT_HANG_TIMEOUT_MS,
      (text) => this.#context.say(text),
    );
    this.#loops = new Loops(this.#context, () => this.#training.capture !== null);
    // One rank, too: a run with a seed of its own is the same at any number of ranks.
    if (run) this.#context.streams.install();
    if (this.#context.worldSize > 1) {
      leaveWithReason(this.#context);
      refuseStdin(this.#context.rank);
    }
    process.on('beforeExit', () => {
      // Where nothing but promises follows from it, Node would end the process and not ask again.
      if (this.#queue.idle()) setImmediate(() => {});
    });
    installHooks({
      core: (core) => this.#hookCore(core),
      layers: (layers) => this.#hookLayers(layers),
      data: (data) => this.#hookData(data),
    });
  }

  get isMainProcess(): boolean {
    return this.#context.rank === 0;
  }

  shard<T>(batch: T): T {
    return this.#loops.shard(batch);
  }

  /** Ends a model's session: the strategy's `shutdown`, unless it has failed. */
  async close(model: object): Promise<void> {
    const { optimizer_ } = model as unknown as LayersModel;
    await (optimizer_ && this.#training.session(optimizer_))?.close();
  }

  /** Says how a model is trained; two different answers for one model are an error. */
  withStrategy<M extends object>(model: M, options: StrategyOptions): M {
    const key = model as unknown as LayersModel;
    const known = this.#options.get(key);
    if (known && JSON.stringify(known) !== JSON.stringify(options)) {
      throw new DeepSpeedError(
        'STRATEGY_CONFLICT',
        `the model ${key.name} has two strategies: ${JSON.stringify(known)} and ${JSON.stringify(options)}`,
        { fix: 'Call withStrategy once for a model.' },
      );
    }
    this.#requireUntrained(key);
    this.#options.set(key, options);
    return model;
  }

  /** Its optimizer's states lie as another strategy has put them. */
  #requireUntrained(model: LayersModel): void {
    const { optimizer_ } = model;
    if (this.#options.has(model) || !optimizer_ || !this.#training.session(optimizer_)) return;
    throw new DeepSpeedError(
      'STRATEGY_CONFLICT',
      `the model ${model.name} is trained already, with the strategy of this run`,
      { fix: 'Call withStrategy before the first fit.' },
    );
  }

  #hookCore(core: Core): void {
    const context = this.#context;
    context.core = core;
    // Copies that the script takes of its own Math.random from here on are of the one that is followed.
    context.streams.follow();
    const training = this.#training;
    const { minimize } = core.Optimizer.prototype;
    core.Optimizer.prototype.minimize = function (f, returnCost, variables) {
      const { capture } = training;
      if (capture && variables) return capture(f, this, variables);
      training.session(this)?.giveStatesBack();
      return minimize.call(this, f, returnCost, variables);
    };
    this.#hookStates(core);
    if (context.worldSize === 1) return;
    // Its advice about backends: once is enough.
    if (context.rank > 0) core.backend_util.warn = () => {};
    this.#loops.patch(core.engine());
    patchRandomOperations(context, core);
  }

  /** Whoever asks an optimizer for its states, or replaces them, must meet the current ones. */
  #hookStates(core: Core): void {
    const training = this.#training;
    for (const { prototype } of optimizerClasses(core)) {
      const { getWeights, setWeights, applyGradients } = prototype;
      prototype.getWeights = async function () {
        training.session(this)?.giveStatesBack();
        return getWeights.call(this);
      };
      prototype.setWeights = async function (weights) {
        await setWeights.call(this, weights);
        training.session(this)?.replaceAdapter();
      };
      prototype.applyGradients = function (gradients) {
        const session = training.session(this);
        session?.giveStatesBack();
        applyGradients.call(this, gradients);
        session?.replaceAdapter();
      };
    }
  }

  #hookLayers(layers: Layers): void {
    const context = this.#context;
    const { prototype } = layers.LayersModel;
    context.builtIn = new Set(Object.values(layers.metrics));
    if (context.worldSize > 1) {
      patchBatchNorm(context, context.core);
      this.#hookStopTraining(prototype);
      this.#hookEvaluation(prototype);
    }
    patchSaving(context, context.core, prototype);
    const training = this.#training;
    const queue = this.#queue;
    const { makeTrainFunction } = prototype;
    prototype.makeTrainFunction = function () {
      const original = makeTrainFunction.call(this);
      return (batch) => {
        queue.progress();
        return training.step(this, original, batch);
      };
    };
    const methods = prototype as unknown as Record<
      string,
      (...args: unknown[]) => Promise<unknown>
    >;
    const prepare = (model: LayersModel) => this.#prepare(model);
    const fitting = new WeakSet<LayersModel>();
    for (const name of ['fit', 'fitDataset', 'trainOnBatch']) {
      const method = methods[name]!;
      methods[name] = async function (this: LayersModel, ...args: unknown[]) {
        const isFit = name !== 'trainOnBatch';
        // In the queue it would find the first one done, and train after all.
        if (isFit && fitting.has(this)) {
          throw new Error('Cannot start training because another fit() call is ongoing.');
        }
        if (isFit) fitting.add(this);
        try {
          return await queue.run(`${name} of ${this.name}`, async () => {
            await prepare(this);
            return method.apply(this, args);
          });
        } finally {
          if (isFit) fitting.delete(this);
        }
      };
    }
    const evaluateDataset = methods.evaluateDataset!;
    methods.evaluateDataset = function (this: LayersModel, ...args: unknown[]) {
      return queue.run(`evaluateDataset of ${this.name}`, () => evaluateDataset.apply(this, args));
    };
  }

  #hookData({ Dataset }: Data): void {
    const { shuffle } = Dataset.prototype;
    // Without a seed it takes the clock's, another one on each rank.
    Dataset.prototype.shuffle = function (size, seed, reshuffle) {
      return shuffle.call(this, size, seed ?? String(Math.random()), reshuffle);
    };
  }

  /** The loops of tfjs-layers read the private field, callbacks write the public one: rank 0 decides. */
  #hookStopTraining(prototype: LayersModel): void {
    const context = this.#context;
    const wishes = new WeakMap<LayersModel, boolean>();
    const wish = {
      get(this: LayersModel) {
        return wishes.get(this);
      },
      set(this: LayersModel, stop: boolean) {
        wishes.set(this, stop);
      },
      configurable: true,
    };
    Object.defineProperty(prototype, 'stopTraining', wish);
    Object.defineProperty(prototype, 'stopTraining_', {
      ...wish,
      get(this: LayersModel) {
        const own = wishes.get(this) ?? false;
        if (!this.isTraining) return own;
        const what = `the end of a batch or an epoch of ${this.name}`;
        return context.agreement.on({ what, rows: 0, digest: 0, value: own ? 1 : 0 }) === 1;
      },
    });
  }

  #hookEvaluation(prototype: LayersModel): void {
    const context = this.#context;
    const { makeTestFunction } = prototype;
    const queue = this.#queue;
    const settings = (model: LayersModel) => this.#settings(model);
    prototype.makeTestFunction = function () {
      makeTestFunction.call(this);
      const split = splitEvaluation(context, this, this.testFunction, () => settings(this));
      this.testFunction = (batch) => {
        queue.progress();
        return split(batch);
      };
    };
  }

  /** Opens the session of a compiled model, once for each optimizer. */
  async #prepare(model: LayersModel): Promise<void> {
    const optimizer = model.optimizer_;
    if (!optimizer || !model.collectedTrainableWeights) return;
    const known = this.#training.session(optimizer);
    if (known) return this.#training.adopt(model, known);
    const settings = this.#settings(model);
    requireHonoured(settings, adapterOf(this.#context.core, optimizer), optimizer);
    requirePlainGradients(this.#context, optimizer);
    this.#shareFrozen(model);
    const variables = model.collectedTrainableWeights.map((weight) => weight.read());
    const session = await OptimizerSession.open(this.#context, optimizer, variables, settings);
    this.#training.adopt(model, session);
  }

  /** What is not trained is rank 0's as well: frozen weights, moving averages. */
  #shareFrozen(model: LayersModel): void {
    const { core, worldSize } = this.#context;
    if (worldSize === 1) return;
    const { communicator } = this.#context.runtime;
    const names = gatherJsonSync(
      this.#context.runtime,
      model.weights.map((weight) => weight.read().name),
    );
    if (names.some((other) => JSON.stringify(other) !== JSON.stringify(names[0]))) return;
    for (const weight of model.nonTrainableWeights) {
      const variable = weight.read();
      const values = variable.dataSync().slice();
      const before = Buffer.from(values.buffer.slice(0));
      communicator.broadcast(new Uint8Array(values.buffer as ArrayBuffer), 0);
      if (before.equals(Buffer.from(values.buffer))) continue;
      const tensor = core.tensor(values as Float32Array, variable.shape, variable.dtype);
      variable.assign(tensor);
      tensor.dispose();
    }
  }

  #settings(model: LayersModel): Settings {
    const { run, worldSize, core } = this.#context;
    const own = model.optimizer_!;
    return settingsFor(this.#optionsOf(model), run?.deepspeedConfig ?? null, worldSize, {
      adapter: adapterOf(core, own),
      own,
    });
  }

  /** A `Sequential` is given a strategy, and the model inside it is trained. */
  #optionsOf(model: LayersModel): StrategyOptions {
    const direct = this.#options.get(model);
    if (direct) return direct;
    for (const [outer, options] of this.#options) if (outer.model === model) return options;
    return {};
  }
}

/** What it did to gradients would be done to those of a rank's rows, before they are averaged. */
function requirePlainGradients({ core, worldSize }: HostContext, optimizer: Optimizer): void {
  const { computeGradients } = core.Optimizer.prototype;
  if (worldSize === 1 || optimizer.computeGradients === computeGradients) return;
  throw new DeepSpeedError(
    'TFJS_UNSUPPORTED',
    `the optimizer ${optimizer.getClassName()} computes gradients in a way of its own, which would see those of one rank's rows`,
    { fix: 'Change them in applyGradients instead: it gets those of the whole batch.' },
  );
}

function optimizerClasses(core: Core) {
  return [
    core.SGDOptimizer,
    core.MomentumOptimizer,
    core.AdamOptimizer,
    core.AdamaxOptimizer,
    core.RMSPropOptimizer,
    core.AdagradOptimizer,
    core.AdadeltaOptimizer,
  ];
}

/** What a user's own optimizer cannot follow, since it runs as it is on every rank. */
function requireHonoured(settings: Settings, adapter: unknown, optimizer: Optimizer): void {
  const { config } = settings;
  if (adapter || !config) return;
  const keys = [
    config.zero_optimization.stage > 0 && 'zero_optimization.stage',
    settings.maxNorm > 0 && 'gradient_clipping',
    config.scheduler !== null && 'scheduler',
    (config.fp16.enabled || config.bf16.enabled) && 'fp16 or bf16',
    // Nobody counts the steps of such an optimizer.
    (config.compression?.start_step ?? 0) > 0 && 'compression.start_step',
    (config.compression?.warmup_steps ?? 0) > 0 && 'compression.warmup_steps',
  ].filter((key) => key !== false);
  if (keys.length === 0) return;
  throw new DeepSpeedError(
    'HOST_LACKS_CAPABILITY',
    `${keys.join(', ')} needs an optimizer that the engine runs; ${optimizer.getClassName()} is the script's own`,
    {
      fix: 'Remove the keys, or compile the model with an optimizer of TensorFlow.js.',
      data: { keys },
    },
  );
}

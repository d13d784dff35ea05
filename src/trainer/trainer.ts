import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import { elementCount } from '../hooks/index.ts';
import { renderCommsTable } from '../monitor/index.ts';
import { refuseUnknownKeys, unknownName } from '../nearest.ts';
import type { MemoryAccount } from '../native/index.ts';
import type { RuntimeOptions } from '../runtime.ts';
import { agree } from '../strategies/agree.ts';
import { checkWritable } from '../strategies/checkpoint/index.ts';
import { swapFailure } from '../strategies/offload/swap-failure.ts';
import { parseArguments, type ResolvedArguments, type TrainingArguments } from './arguments.ts';
import { requireKnownEvents, type TrainerCallback, type TrainerState } from './callbacks.ts';
import { loadTrainerCheckpoint } from './checkpoints.ts';
import type { Dataset } from './dataset.ts';
import { type EvaluationMetrics, evaluate, type Prediction, predict } from './evaluation.ts';
import { fullParameter, gatherParameters, setFullParameter } from './full-parameters.ts';
import { generateGreedy } from './generate.ts';
import type { ParameterInfo, TrainableModel } from '../hosts/onnx/model.ts';
import { saveTrainedModel, saveWeights } from './save-model.ts';
import { claimOutput } from './output-claim.ts';
import { setUpTraining, type Training } from './setup.ts';
import { TrainLoop, type TrainOutput } from './train-loop.ts';
import { Turns } from './turns.ts';

/** What a Trainer is made of. */
export interface TrainerOptions {
  model: TrainableModel;
  args: TrainingArguments;
  trainDataset?: Dataset;
  evalDataset?: Dataset;
  /** Folder with tokenizer.json: saved beside the model. */
  tokenizer?: string;
  callbacks?: TrainerCallback[];
  /** For tests and embedding: ranks as threads, number of threads. */
  runtime?: RuntimeOptions;
}

const trainerOptions: readonly (keyof TrainerOptions)[] = [
  'model',
  'args',
  'trainDataset',
  'evalDataset',
  'tokenizer',
  'callbacks',
  'runtime',
];

/**
 * Trains a model, in the shape people know from Hugging Face. Under the launcher it is one rank of many
 * and every method must be called on all ranks; alone it is plain training. Calls run in the order in which
 * they were made, one after the other, awaited or not; those from callbacks and datasets of a call, within it:
 * these must not await a call that was made outside, which comes after theirs (`CALL_NEVER_ENDS`).
 *
 * @example
 * const trainer = new Trainer({
 *   model: AutoModelForCausalLM.fromConfig({ model_type: 'gpt2', n_layer: 4, n_embd: 256 }),
 *   args: { outputDir: 'out', strategy: 'deepspeed', deepspeed: './ds_config.json' },
 *   trainDataset,
 * });
 * await trainer.train();
 * await trainer.saveModel('out/model');
 */
export class Trainer {
  readonly args: ResolvedArguments;
  readonly state: TrainerState = {
    position: { epoch: 0, samplesInEpoch: 0 },
    step: 0,
    skippedSteps: 0,
    epoch: 0,
    maxSteps: 0,
    samplesSeen: 0,
    tokensSeen: 0,
    logHistory: [],
    bestMetric: null,
    bestCheckpoint: null,
  };
  readonly #options: TrainerOptions;
  #training: Promise<Training> | undefined;
  readonly #turns = new Turns((text) => process.stderr.write(`deepspeed-js: ${text}\n`));
  #closed = false;

  constructor(options: TrainerOptions) {
    refuseUnknownKeys(options, trainerOptions, 'new Trainer()');
    requireModel(options.model);
    this.args = parseArguments(options.args);
    requireKnownEvents(options.callbacks ?? []);
    requireTokenizer(options.tokenizer);
    this.#options = options;
  }

  /**
   * Trains to `maxSteps` or through `numTrainEpochs`.
   *
   * @param options.resumeFromCheckpoint true: the newest checkpoint in outputDir, an error when there is
   *   none; 'auto': the same, from the start when there is none; or a folder
   */
  train(options: { resumeFromCheckpoint?: boolean | string } = {}): Promise<TrainOutput> {
    return this.#call('train()', () => {
      refuseUnknownKeys(options, ['resumeFromCheckpoint'], 'train()');
      const { trainDataset, evalDataset, callbacks = [] } = this.#options;
      if (!trainDataset) throw missing('train()', 'trainDataset');
      if (this.args.evalStrategy !== 'no' && !evalDataset) {
        throw missing(`evalStrategy "${this.args.evalStrategy}"`, 'evalDataset');
      }
      return async (training) => {
        const { runtime } = training;
        let giveUp = () => {};
        await agree(runtime, async () => {
          if (runtime.rank !== 0) return;
          await checkWritable(this.args.outputDir);
          giveUp = await claimOutput(this.args.outputDir);
        });
        try {
          const loop = new TrainLoop(training, this.state, callbacks, evalDataset, this.#turns);
          return await loop.run(options.resumeFromCheckpoint);
        } finally {
          giveUp();
        }
      };
    });
  }

  /** Mean loss per target over a dataset, and for language models the perplexity. */
  evaluate(dataset = this.#options.evalDataset): Promise<EvaluationMetrics> {
    return this.#call('evaluate()', () => {
      if (!dataset) throw missing('evaluate()', 'evalDataset');
      return (training) => evaluate(training, dataset, this.state.step);
    });
  }

  /**
   * The model's outputs for this rank's share of the dataset, sample by sample. Each batch is a call of its own:
   * a loop over samples may make other calls and await them, and may be left.
   */
  async *predict(dataset: Dataset): AsyncGenerator<Prediction> {
    if (!dataset) throw new DeepSpeedError('ARGUMENTS_INVALID', 'predict() needs a dataset');
    let batches: ReturnType<typeof predict> | undefined;
    for (;;) {
      const { done, value } = await this.#call('predict()', () => (training) => {
        batches ??= predict(training, dataset, () => this.state.step);
        return batches.next();
      });
      if (done) return;
      yield* value;
    }
  }

  /** Greedy continuation of a prompt with the current weights. Slow: nothing is cached. */
  generate(
    prompt: readonly number[],
    options: { maxNewTokens?: number; eosTokenId?: number } = {},
  ): Promise<number[]> {
    return this.#call('generate()', () => {
      refuseUnknownKeys(options, ['maxNewTokens', 'eosTokenId'], 'generate()');
      const { maxNewTokens = 20, eosTokenId } = options;
      const { maxLength } = this.#options.model;
      if (maxLength === undefined) {
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          'generate() needs a causal language model made by AutoModelForCausalLM',
          { fix: 'For a graph of your own, read the outputs with predict().' },
        );
      }
      return (training) =>
        generateGreedy(training, prompt, { maxNewTokens, eosTokenId }, this.state.step, maxLength);
    });
  }

  /**
   * Writes a folder that transformers.js loads: `config.json`, the tokenizer, `model.safetensors` and
   * `onnx/model.onnx` with key and value cache; for an OnnxModel `model.onnx`, the graph as it was read
   * with the trained values. Rank 0 writes; all ranks must call it.
   */
  saveModel(folder: string): Promise<void> {
    return this.#call('saveModel()', () => {
      const { model, tokenizer } = this.#options;
      return (training) => saveTrainedModel(training, model, folder, tokenizer);
    });
  }

  /** Loads weights and optimizer states without training. */
  loadCheckpoint(from: true | string): Promise<void> {
    return this.#call('loadCheckpoint()', () => async (training) => {
      const loaded = await loadTrainerCheckpoint(training, from);
      if (loaded) Object.assign(this.state, loaded.state);
    });
  }

  /**
   * A parameter's current value, fp32. Below ZeRO stage 3 it is not copied and changes with every step;
   * at stage 3 it is gathered, and all ranks must ask for it.
   *
   * @throws ARGUMENTS_INVALID for a name that is not in the model
   */
  parameter(name: string): Promise<Float32Array> {
    return this.#call('parameter()', () => {
      this.#requireParameter(name);
      return async ({ host }) => host.parameter(name);
    });
  }

  /**
   * DeepSpeed's `safe_get_full_fp32_param`: a copy of the whole fp32 value, in 16-bit training of the
   * optimizer's weights. All ranks must ask.
   *
   * @throws ARGUMENTS_INVALID for a name that is not in the model
   */
  getFullFp32Param(name: string): Promise<Float32Array> {
    return this.#call('getFullFp32Param()', () => {
      this.#requireParameter(name);
      return (training) => fullParameter(training, name);
    });
  }

  /**
   * DeepSpeed's `safe_set_full_fp32_param`: the next step starts from these values. All ranks must set it;
   * rank 0's values count.
   *
   * @throws ARGUMENTS_INVALID for a name that is not in the model, and for another number of elements
   */
  setFullFp32Param(name: string, values: Float32Array): Promise<void> {
    return this.#call('setFullFp32Param()', () => {
      const { shape } = this.#requireParameter(name);
      const count = elementCount(shape);
      if (!(values instanceof Float32Array) || values.length !== count) {
        const got = values instanceof Float32Array ? `${values.length} elements` : typeof values;
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          `setFullFp32Param("${name}") needs a Float32Array of ${count} elements, got ${got}`,
        );
      }
      return (training) => setFullParameter(training, name, values, 0);
    });
  }

  /**
   * DeepSpeed's `zero.GatheredParameters`: calls `use` with whole fp32 values by name, on every rank. The
   * arrays lose their elements when it has ended. All ranks must call it.
   *
   * @param options.modifierRank the rank whose changes are kept; default null: nobody's are
   * @example
   * await trainer.gatheredParameters(['lm_head.weight'], (all) => all.get('lm_head.weight')!.fill(0), {
   *   modifierRank: 0,
   * });
   */
  gatheredParameters<T>(
    names: readonly string[],
    use: (parameters: ReadonlyMap<string, Float32Array>) => T | Promise<T>,
    options: { modifierRank?: number | null } = {},
  ): Promise<T> {
    return this.#call('gatheredParameters()', () => {
      refuseUnknownKeys(options, ['modifierRank'], 'gatheredParameters()');
      for (const name of names) this.#requireParameter(name);
      const { modifierRank = null } = options;
      return (training) => gatherParameters(training, names, use, modifierRank);
    });
  }

  /**
   * DeepSpeed's `save_16bit_model`: writes `config.json` and `model.safetensors` in the type that parameters
   * are stored in (float32 without `bf16` and `fp16`). Rank 0 writes, and holds the whole model meanwhile;
   * all ranks must call it.
   */
  save16bitModel(folder: string): Promise<void> {
    return this.#call('save16bitModel()', () => {
      const { model } = this.#options;
      if (!model.saveWeights) {
        throw new DeepSpeedError(
          'ARGUMENTS_INVALID',
          'save16bitModel() needs a model made by AutoModelForCausalLM',
          { fix: 'Use saveModel(), which writes the graph with its values.' },
        );
      }
      return (training) => saveWeights(training, model, folder);
    });
  }

  /** Bytes that the engine holds on this rank, by category. */
  async memory(): Promise<MemoryAccount> {
    return (await this.#open()).runtime.engine.memory();
  }

  /**
   * Prints, on rank 0, how often each collective ran so far, how long it took and what bandwidth that is:
   * DeepSpeed's `log_summary`, limited to `comms_logger.prof_ops` where the config says so.
   *
   * @returns this rank's lines
   */
  async logSummary(): Promise<string[]> {
    const { recipe, runtime } = await this.#open();
    const { prof_all = true, prof_ops = [] } = recipe.config?.comms_logger ?? {};
    const lines = renderCommsTable(runtime.engine.commStats(), {
      worldSize: runtime.worldSize,
      ...(!prof_all && { operations: prof_ops }),
    });
    if (runtime.rank === 0) for (const line of lines) console.log(line);
    return lines;
  }

  /** True on the rank that prints and writes. */
  async isMainProcess(): Promise<boolean> {
    return (await this.#open()).runtime.rank === 0;
  }

  /** Frees the engine. Without it everything is freed when the process ends. */
  async close(): Promise<void> {
    if (!this.#training || this.#closed) return;
    this.#closed = true;
    // A set-up that failed has told its caller, and has closed what it opened.
    const training = await this.#training.catch(() => null);
    if (!training) return;
    try {
      await training.session.lifecycle.run('shutdown', {});
    } catch (error) {
      training.runtime.close(error instanceof Error ? error.message : String(error));
      throw error;
    }
    training.runtime.close();
  }

  #requireParameter(name: string): ParameterInfo {
    const { parameters } = this.#options.model;
    const found = parameters.find((parameter) => parameter.name === name);
    if (found) return found;
    const names = parameters.map((parameter) => parameter.name);
    const message = unknownName(name, names, 'a parameter of the model');
    throw new DeepSpeedError('ARGUMENTS_INVALID', message, {
      fix: 'model.parameters lists the names.',
    });
  }

  #open(): Promise<Training> {
    if (this.#closed) throw new DeepSpeedError('TRAINER_CLOSED', 'this Trainer has been closed');
    this.#training ??= setUpTraining({
      model: this.#options.model,
      args: this.args,
      given: this.#options.args,
      trainDataset: this.#options.trainDataset,
      runtime: this.#options.runtime ?? {},
    });
    return this.#training;
  }

  /**
   * Checks the arguments of a call at once, and runs it when those before it have ended. Methods return this very
   * promise, which an `async` method would not: it knows who must not wait for it.
   *
   * @param prepare checks, and returns what is to run
   */
  #call<T>(name: string, prepare: () => (training: Training) => Promise<T>): Promise<T> {
    let action: (training: Training) => Promise<T>;
    try {
      action = prepare();
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#turns.take(name, async () => this.#guard(await this.#open(), action));
  }

  /** An error on this rank reaches the plugins, and the peers that would wait for it. */
  async #guard<T>(training: Training, action: (training: Training) => Promise<T>): Promise<T> {
    try {
      return await action(training);
    } catch (thrown) {
      const error = swapFailure(thrown) ?? thrown;
      const failure = error instanceof Error ? error : new Error(String(error));
      if (!training.saving?.isLoadable) await training.saving?.abandon();
      await training.session.lifecycle.run('failed', { error: failure }).catch(() => {});
      this.#closed = true;
      training.runtime.close(failure.message);
      throw error;
    }
  }
}

function requireModel(model: unknown): void {
  if (model === undefined) throw missing('new Trainer()', 'model');
  if (typeof (model as Partial<TrainableModel> | null)?.graph === 'function') return;
  const what = model instanceof Promise ? 'a promise: await it' : 'not a model';
  throw new DeepSpeedError('ARGUMENTS_INVALID', `model is ${what}`, {
    fix: 'Give what AutoModelForCausalLM.fromConfig, await AutoModelForCausalLM.fromPretrained or await OnnxModel.fromFile returns.',
  });
}

/** A model folder without its tokenizer would be noticed after the training. */
function requireTokenizer(folder: string | undefined): void {
  if (folder === undefined || existsSync(join(folder, 'tokenizer.json'))) return;
  throw new DeepSpeedError(
    'TOKENIZER_INVALID',
    `${join(folder, 'tokenizer.json')} does not exist`,
    {
      fix: 'Give new Trainer({ tokenizer }) a folder with tokenizer.json, or leave it out.',
      data: { folder },
    },
  );
}

function missing(what: string, option: string): DeepSpeedError {
  return new DeepSpeedError('ARGUMENTS_INVALID', `${what} needs ${option}`, {
    fix: `Give new Trainer({ ${option} }).`,
  });
}

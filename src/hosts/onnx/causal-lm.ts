import { DeepSpeedError } from '../../errors.ts';
import type { Graph } from '../../graph/index.ts';
import {
  arraySource,
  buildTrainingGraph,
  exportOnnx,
  initialSource,
  loadPretrained,
  type ModelConfig,
  modelParameters,
  type ParameterSource,
  parseModelConfig,
  saveModelConfig,
  saveParameters,
} from '../../models/index.ts';
import { refuseUnknownKeys } from '../../nearest.ts';
import type { Batch, CollateOptions } from './batch.ts';
import { collateTokens, maskedVariant } from './causal-lm-batch.ts';
import { sumOfLosses } from './loss.ts';
import type { ParameterInfo, TrainableModel } from './model.ts';
import type { AnySample, Sample } from './sample.ts';

/**
 * A causal language model made from a Hugging Face `config.json`, with fresh or stored weights.
 *
 * @example
 * const model = AutoModelForCausalLM.fromConfig({ model_type: 'gpt2', n_layer: 4, n_embd: 256 });
 * const other = await AutoModelForCausalLM.fromPretrained('./my-model');
 */
export class AutoModelForCausalLM implements TrainableModel {
  readonly config: ModelConfig;
  readonly parameters: readonly ParameterInfo[];
  readonly target = 'token';
  readonly outputs = ['logits'];
  readonly initial: (name: string) => ParameterSource;
  #frozen: (name: string) => boolean = () => false;

  private constructor(config: ModelConfig, initial: (name: string) => ParameterSource) {
    this.config = config;
    this.parameters = modelParameters(config).map(({ name, shape }) => ({ name, shape }));
    this.initial = initial;
  }

  /**
   * A new model with the architecture's standard initialisation.
   *
   * @param config a parsed Hugging Face config.json; `model_type` is gpt2 or llama
   */
  static fromConfig(
    config: Record<string, unknown>,
    options: { seed?: number } = {},
  ): AutoModelForCausalLM {
    refuseUnknownKeys(options, ['seed'], 'fromConfig()');
    const { seed = 42 } = options;
    const parsed = parseModelConfig((config ?? {}) as never, 'the model config');
    const specs = new Map(modelParameters(parsed).map((spec) => [spec.name, spec]));
    return new AutoModelForCausalLM(parsed, (name) => initialSource(specs.get(name)!, seed));
  }

  /** Reads `config.json` and the weights (`model.safetensors`, or its sharded index) of a folder. */
  static async fromPretrained(folder: string): Promise<AutoModelForCausalLM> {
    const { config, parameters } = await loadPretrained(folder);
    return new AutoModelForCausalLM(config, (name) => parameters.get(name)!);
  }

  /**
   * Parameters for which the predicate holds keep their values.
   *
   * @example model.freeze((name) => name.startsWith('transformer.wte'))
   */
  freeze(predicate: (name: string) => boolean): this {
    if (typeof predicate !== 'function') {
      throw new DeepSpeedError('ARGUMENTS_INVALID', 'freeze() takes a function of the name', {
        fix: "For one parameter: freeze((name) => name === 'transformer.wte.weight').",
      });
    }
    this.#frozen = predicate;
    return this;
  }

  isTrainable(name: string): boolean {
    return !this.#frozen(name);
  }

  get width(): number {
    return this.config.width;
  }

  get maxLength(): number {
    return this.config.maxPositions;
  }

  get vocabSize(): number {
    return this.config.vocabSize;
  }

  get padTokenId(): number {
    return 0;
  }

  graph({ feeds, variant }: Batch): Graph {
    const [batchSize, sequenceLength] = feeds.input_ids!.dims as [number, number];
    const attentionMask = variant === maskedVariant;
    return sumOfLosses(
      buildTrainingGraph(this.config, { batchSize, sequenceLength, attentionMask }),
      'loss',
    );
  }

  collate(
    samples: readonly AnySample[],
    indices: readonly number[],
    options: CollateOptions,
  ): Batch {
    return collateTokens(samples, indices, options, this);
  }

  example(): readonly Sample[] {
    return [{ input_ids: new Int32Array(Math.min(8, this.maxLength)) }];
  }

  positions(sample: AnySample): number {
    return (sample as Sample).input_ids.length;
  }

  /**
   * Writes what transformers.js loads: `config.json`, `model.safetensors`, and `onnx/model.onnx` with
   * key and value cache.
   */
  async save(folder: string, value: (parameter: string) => Float32Array): Promise<void> {
    const { config } = this;
    const parameters = this.#sources(value);
    await saveModelConfig(folder, config);
    await saveParameters(folder, config, parameters);
    await exportOnnx(config, parameters, folder);
  }

  /** Writes what Hugging Face transformers loads: `config.json` and `model.safetensors`. */
  async saveWeights(
    folder: string,
    value: (parameter: string) => Float32Array,
    dtype: 'float32' | 'float16' | 'bfloat16',
  ): Promise<void> {
    await saveParameters(folder, this.config, this.#sources(value), { dtype });
  }

  #sources(value: (parameter: string) => Float32Array): Map<string, ParameterSource> {
    return new Map(
      this.parameters.map(({ name, shape }) => [name, arraySource(shape, value(name))]),
    );
  }
}

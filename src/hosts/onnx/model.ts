import type { Graph } from '../../graph/index.ts';
import { toTyped } from '../../graph/index.ts';
import {
  buildTrainingGraph,
  initialValues,
  loadModelConfig,
  loadPretrained,
  type ModelConfig,
  modelParameters,
  parseModelConfig,
} from '../../models/index.ts';

export interface ParameterInfo {
  readonly name: string;
  readonly shape: readonly number[];
}

/** What the host asks of a model. */
export interface TrainableModel {
  readonly parameters: readonly ParameterInfo[];
  /** Longest sequence; rows longer than this are refused. */
  readonly maxLength: number;
  readonly vocabSize: number;
  readonly padTokenId: number;
  /** Null for a model that is only a graph. */
  readonly config: ModelConfig | null;
  /** The training graph for one batch shape; parameters are initializers whose values do not matter. */
  graph(shape: { rows: number; length: number; masked: boolean }): Graph;
  /** Writes a parameter's initial value, row-major. */
  initialize(name: string, target: Float32Array): Promise<void>;
  isTrainable(name: string): boolean;
}

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
  readonly #read: (name: string) => Promise<Float32Array>;
  #frozen: (name: string) => boolean = () => false;

  private constructor(config: ModelConfig, read: (name: string) => Promise<Float32Array>) {
    this.config = config;
    this.parameters = modelParameters(config).map(({ name, shape }) => ({ name, shape }));
    this.#read = read;
  }

  /**
   * A new model with the architecture's standard initialisation.
   *
   * @param config a parsed Hugging Face config.json; `model_type` is gpt2 or llama
   */
  static fromConfig(
    config: Record<string, unknown>,
    { seed = 42 }: { seed?: number } = {},
  ): AutoModelForCausalLM {
    const parsed = parseModelConfig(config as never, 'the model config');
    const specs = new Map(modelParameters(parsed).map((spec) => [spec.name, spec]));
    return new AutoModelForCausalLM(parsed, async (name) => initialValues(specs.get(name)!, seed));
  }

  /**
   * Reads `config.json` and, if there, the weights (`model.safetensors`, or a sharded index) of a folder.
   * Without weights the model starts from `seed`.
   */
  static async fromPretrained(folder: string): Promise<AutoModelForCausalLM> {
    const config = await loadModelConfig(folder);
    const weights = await loadPretrained(folder);
    return new AutoModelForCausalLM(
      config,
      async (name) => toTyped(await weights.parameters.get(name)!.read()) as Float32Array,
    );
  }

  /**
   * Parameters for which the predicate holds keep their values.
   *
   * @example model.freeze((name) => name.startsWith('transformer.wte'))
   */
  freeze(predicate: (name: string) => boolean): this {
    this.#frozen = predicate;
    return this;
  }

  isTrainable(name: string): boolean {
    return !this.#frozen(name);
  }

  get maxLength(): number {
    return this.config.modelType === 'gpt2' ? this.config.maxPositions : this.config.maxPositions;
  }

  get vocabSize(): number {
    return this.config.vocabSize;
  }

  get padTokenId(): number {
    return 0;
  }

  graph({ rows, length, masked }: { rows: number; length: number; masked: boolean }): Graph {
    return buildTrainingGraph(this.config, {
      batchSize: rows,
      sequenceLength: length,
      attentionMask: masked,
    });
  }

  async initialize(name: string, target: Float32Array): Promise<void> {
    target.set(await this.#read(name));
  }
}

import type { Graph } from '../../graph/index.ts';
import {
  buildTrainingGraph,
  initialSource,
  loadPretrained,
  type ModelConfig,
  modelParameters,
  type ParameterSource,
  parseModelConfig,
} from '../../models/index.ts';

/** Name and shape of one parameter, as model.safetensors has them. */
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
  /** A parameter's initial value. */
  initial(name: string): ParameterSource;
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
    { seed = 42 }: { seed?: number } = {},
  ): AutoModelForCausalLM {
    const parsed = parseModelConfig(config as never, 'the model config');
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
    this.#frozen = predicate;
    return this;
  }

  isTrainable(name: string): boolean {
    return !this.#frozen(name);
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

  graph({ rows, length, masked }: { rows: number; length: number; masked: boolean }): Graph {
    return buildTrainingGraph(this.config, {
      batchSize: rows,
      sequenceLength: length,
      attentionMask: masked,
    });
  }
}

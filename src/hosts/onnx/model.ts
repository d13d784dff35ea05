import type { Graph } from '../../graph/index.ts';
import type { ParameterSource } from '../../models/index.ts';
import type { Batch, CollateOptions } from './batch.ts';
import type { AnySample } from './sample.ts';

/** A tensor that training may change. */
export interface ParameterInfo {
  readonly name: string;
  readonly shape: readonly number[];
}

/** The output of every model's graph that backward starts from: float32, no dimensions. */
export const lossSum = 'loss_sum';

/** What the host and the Trainer ask of a model. */
export interface TrainableModel {
  readonly parameters: readonly ParameterInfo[];
  /** Width of the hidden layers, for "auto" values of a config; undefined where nobody knows. */
  readonly width?: number | undefined;
  /** Longest sequence that generate() may make; undefined for a model that is no language model. */
  readonly maxLength?: number | undefined;
  /** All samples have the sizes that the graph fixes. */
  readonly hasFixedSizes?: boolean;
  /** What a target of the loss is: evaluation reports perplexity for tokens only. */
  readonly target: 'token' | 'sample';
  /** Graph outputs, float32, that predict() gives: their first dimension is the rows'. */
  readonly outputs: readonly string[];
  /**
   * The training graph of a batch's shapes. It has the model's outputs and `loss_sum`, the sum of the
   * losses over the batch's targets. Parameters are initializers whose values do not matter.
   */
  graph(batch: Batch): Graph;
  /**
   * @param indices of the samples in the dataset, for error messages and for dropout
   * @throws DATASET_INVALID naming the sample that does not fit
   */
  collate(
    samples: readonly AnySample[],
    indices: readonly number[],
    options: CollateOptions,
  ): Batch;
  /** Samples to compile for where there is no training dataset. */
  example(): readonly AnySample[];
  /** Positions of a sample, where outputs have one entry for each and padding comes after them. */
  positions?(sample: AnySample): number;
  /** A parameter's initial value. */
  initial(name: string): ParameterSource;
  isTrainable(name: string): boolean;
  /** Writes the model into a folder that exists. */
  save(folder: string, value: (parameter: string) => Float32Array): Promise<void>;
  /** Writes the weights alone, with what reading them takes, into a folder that exists. */
  saveWeights?(
    folder: string,
    value: (parameter: string) => Float32Array,
    dtype: 'float32' | 'float16' | 'bfloat16',
  ): Promise<void>;
}

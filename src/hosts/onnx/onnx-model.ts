import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import {
  fromTyped,
  type Graph,
  inferTypes,
  loadModel,
  type Model,
  numel,
  saveModel,
  upgradeOpset,
} from '../../graph/index.ts';
import { type ParameterSource, tensorSource } from '../../models/index.ts';
import { refuseUnknownKeys } from '../../nearest.ts';
import type { Batch, CollateOptions, Feed } from './batch.ts';
import { appendLoss, type Loss } from './loss.ts';
import type { ParameterInfo, TrainableModel } from './model.ts';
import { type LossOption, lossOutput, resolveLoss } from './onnx-loss.ts';
import type { AnySample, SampleValue, TensorSample } from './sample.ts';
import { isFeedType, readRow, type RowSpec, stackRows } from './stack.ts';
import { lossFeeds } from './targets.ts';
import { likelyParameters, requireTrainable, separateAliases } from './trainable-graph.ts';

/** How samples become one of the graph's inputs. */
export interface OnnxInputOptions {
  /** Samples may differ in the axes that the graph leaves open; this fills them at their end. */
  padValue?: number;
  /** The input is this in every batch, and samples have no value for it. */
  value?: SampleValue;
}

/** What `OnnxModel` cannot read from the graph. */
export interface OnnxModelOptions {
  /**
   * What is minimised: an output of the graph, or a loss that is appended to one. Default: the output
   * called `loss`.
   */
  loss?: string | LossOption;
  /**
   * Asked for each float32 initializer. Default: all but single numbers, attention masks and rotary
   * frequencies.
   */
  trainable?: (name: string, shape: readonly number[]) => boolean;
  /** By input name. */
  inputs?: Readonly<Record<string, OnnxInputOptions>>;
  /** Float32 outputs that predict() gives. Default: all but the loss and a key/value cache. */
  outputs?: readonly string[];
}

/** An input of the graph as samples see it. */
interface Input extends Omit<RowSpec, 'multiple'> {
  /** Rows that the graph was exported for; undefined: any number. */
  rows: number | undefined;
  /** What it is in every batch. */
  value?: Feed;
}

/**
 * A model of the user's own, as an ONNX file: its float32 initializers become parameters.
 *
 * Samples are objects with a value for each input of the graph, without the batch axis, which is the
 * first of every input; they are stacked. Labels and targets of an appended loss are further fields.
 *
 * The loss of a step is the mean over the global batch, whatever the number of ranks and micro batches.
 * The last incomplete batch: rows that do not exist are copies of others and have weight 0; where the
 * graph's loss is one number for the batch, only the rows that exist are run (another compiled shape).
 *
 * @example
 * const model = await OnnxModel.fromFile('model.onnx', {
 *   loss: { type: 'crossEntropy', logits: 'logits', labels: 'label' },
 *   trainable: (name) => !name.startsWith('backbone.'),
 * });
 * const trainDataset = { length: 100, get: (i) => ({ x: features[i], label: classes[i] }) };
 */
export class OnnxModel implements TrainableModel {
  readonly parameters: readonly ParameterInfo[];
  readonly outputs: readonly string[];
  readonly target: 'token' | 'sample';
  /** As loaded, aliases separated; what save() writes with other values. */
  readonly #model: Model;
  /** The part that training runs, in today's spelling. */
  readonly #graph: Graph;
  readonly #loss: Loss;
  readonly #inputs: readonly Input[];
  readonly #fixedRows: number | undefined;
  readonly #trainable: ReadonlySet<string>;
  /** A sample that filler rows are copies of where a batch has none. */
  #spare: TensorSample | undefined;

  private constructor(model: Model, path: string, options: OnnxModelOptions) {
    refuseUnknownKeys(options, ['loss', 'trainable', 'inputs', 'outputs'], 'OnnxModel');
    const loss = resolveLoss(model.graph, options.loss, path);
    this.outputs = options.outputs ?? defaultOutputs(model.graph, loss);
    this.#loss = loss;
    this.target = loss.type === 'crossEntropy' && loss.shift ? 'token' : 'sample';
    this.#model = { ...model, graph: separateAliases(model.graph) };
    const wanted = new Set([lossOutput(loss), ...this.outputs]);
    this.#graph = upgradeOpset({
      ...model,
      graph: requireTrainable(this.#model.graph, [...wanted], path),
    });
    this.#inputs = readInputs(this.#graph, options.inputs ?? {}, path);
    this.#fixedRows = this.#inputs.find(({ rows }) => rows !== undefined)?.rows;
    this.parameters = chooseParameters(this.#graph, options.trainable);
    this.#trainable = new Set(this.parameters.map(({ name }) => name));
    if (this.parameters.length > 0) return;
    throw new DeepSpeedError('GRAPH_NOT_TRAINABLE', `${path} has no trainable parameter`, {
      fix: 'Parameters are float32 initializers with more than one element; let `trainable` return true for some. torch.onnx.export needs export_params=True.',
    });
  }

  /**
   * Reads a model file and its external data.
   *
   * @throws what loadModel throws; GRAPH_NOT_TRAINABLE for a quantised, cached or branching graph;
   *   ARGUMENTS_INVALID for a loss or input that the graph does not have
   */
  static async fromFile(path: string, options: OnnxModelOptions = {}): Promise<OnnxModel> {
    return new OnnxModel(await loadModel(path), path, options);
  }

  get hasFixedSizes(): boolean {
    return this.#inputs.every(
      ({ shape, value }) => value || shape?.every((dim) => typeof dim === 'number'),
    );
  }

  isTrainable(name: string): boolean {
    return this.#trainable.has(name);
  }

  initial(name: string): ParameterSource {
    return tensorSource(this.#graph.initializers.get(name)!);
  }

  graph({ feeds }: Batch): Graph {
    const dims = Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, feed.dims]));
    return appendLoss(this.#graph, this.#loss, dims, this.#trainable);
  }

  collate(
    given: readonly AnySample[],
    indices: readonly number[],
    { rows, padToMultipleOf }: CollateOptions,
  ): Batch {
    const own = given as readonly TensorSample[];
    this.#spare ??= own[0];
    const samples = this.#filled(own, rows);
    const sampleIndices = samples.map((_, row) => (row < own.length ? indices[row]! : -1));
    const feeds: Record<string, Feed> = {};
    for (const input of this.#inputs) {
      const spec = { ...input, multiple: padToMultipleOf };
      if (input.value !== undefined) {
        feeds[input.name] = input.value;
        continue;
      }
      const read = samples.map((sample, row) =>
        readRow(sample[input.name], spec, sampleIndices[row]!),
      );
      feeds[input.name] = stackRows(read, sampleIndices, spec);
    }
    const pads = this.#inputs.some(({ padValue }) => padValue !== undefined);
    const loss = lossFeeds(this.#loss, {
      samples,
      real: own.length,
      indices: sampleIndices,
      multiple: pads ? padToMultipleOf : 1,
      declared: (name) => this.#inputs.find((input) => input.name === name)?.shape,
    });
    return {
      feeds: { ...feeds, ...loss.feeds },
      samples: own.length,
      targets: loss.targets,
      sampleIndices,
    };
  }

  /** Zeros; sizes that the graph leaves open are 8, as are the labels' where they follow from logits. */
  example(): readonly TensorSample[] {
    const sample: Record<string, SampleValue> = {};
    const shapes: Record<string, readonly number[]> = {};
    for (const { name, shape, value, padValue = 0 } of this.#inputs) {
      const dims = (shape ?? []).map((dim) => (typeof dim === 'number' ? dim : 8));
      sample[name] = { data: new Array(numel(dims)).fill(padValue), dims };
      shapes[name] = value?.dims ?? [this.#fixedRows ?? 1, ...dims];
    }
    const types = inferTypes(this.#graph, { inputs: shapes, variables: this.#trainable });
    const loss = this.#loss;
    if (loss.type !== 'output') {
      const [, ...dims] = types.get(lossOutput(loss))!.shape;
      if (loss.type === 'crossEntropy') dims.pop();
      const name = loss.type === 'crossEntropy' ? loss.labels : loss.targets;
      sample[name] ??= { data: new Array(numel(dims)).fill(0), dims };
    }
    return [sample];
  }

  /** Writes `model.onnx`, the file as it was read with the parameters' present values. */
  async save(folder: string, value: (parameter: string) => Float32Array): Promise<void> {
    const { graph } = this.#model;
    const initializers = new Map(graph.initializers);
    for (const { name, shape } of this.parameters) {
      initializers.set(name, fromTyped('float32', shape, value(name)));
    }
    const path = join(folder, 'model.onnx');
    await saveModel({ ...this.#model, graph: { ...graph, initializers } }, path);
  }

  /** Samples and the filler that completes them to the rows of the batch. */
  #filled(samples: readonly TensorSample[], rows: number): readonly TensorSample[] {
    const loss = this.#loss;
    const wholeBatch = loss.type === 'output' && loss.reduction !== 'none';
    const fixed = this.#fixedRows;
    if (fixed !== undefined && fixed !== rows) {
      throw new DeepSpeedError(
        'ARGUMENTS_INVALID',
        `the model was exported for batches of ${fixed}, and the micro batch is ${rows}`,
        {
          fix: `Set perDeviceTrainBatchSize and perDeviceEvalBatchSize (or train_micro_batch_size_per_gpu) to ${fixed}, or export with a dynamic batch axis.`,
        },
      );
    }
    if (fixed !== undefined && wholeBatch && samples.length > 0 && samples.length < fixed) {
      throw new DeepSpeedError(
        'DATASET_INVALID',
        `the last batch has ${samples.length} samples, the model was exported for ${fixed}, and its loss is one number for all of them`,
        { fix: 'Export with a dynamic batch axis or a loss by row, or set dataloaderDropLast.' },
      );
    }
    const wanted = wholeBatch && fixed === undefined ? Math.max(1, samples.length) : rows;
    const filler = samples[0] ?? this.#spare;
    if (!filler) throw new DeepSpeedError('INTERNAL', 'internal: an empty batch before any sample');
    return Array.from({ length: wanted }, (_, row) => samples[row] ?? filler);
  }
}

function readInputs(
  graph: Graph,
  options: Readonly<Record<string, OnnxInputOptions>>,
  path: string,
): Input[] {
  const names = graph.inputs.map(({ name }) => name);
  for (const [name, option] of Object.entries(options)) {
    refuseUnknownKeys(option, ['padValue', 'value'], `input '${name}'`);
    if (names.includes(name)) continue;
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      `inputs: ${path} takes no '${name}' for what is trained; it takes ${names.join(', ')}`,
    );
  }
  return graph.inputs.map(({ name, dtype, shape }) => {
    if (!isFeedType(dtype)) {
      throw new DeepSpeedError(
        'NOT_AVAILABLE_YET',
        `${path}: input '${name}' is ${dtype}; float32, int64, int32 and bool can be fed`,
        { fix: 'Export the model with inputs of one of these types.' },
      );
    }
    const { padValue, value } = options[name] ?? {};
    if (value !== undefined) {
      const spec = { name, dtype, shape, multiple: 1 };
      const row = readRow(value, spec, 0);
      const { data } = stackRows([row], [0], spec);
      return { name, dtype, shape, rows: undefined, value: { dtype, dims: row.dims, data } };
    }
    const rows = typeof shape?.[0] === 'number' ? shape[0] : undefined;
    if (shape?.length === 0) {
      throw new DeepSpeedError(
        'ARGUMENTS_INVALID',
        `${path}: input '${name}' has no dimensions, so it cannot hold a row for each sample`,
        {
          fix: `Give it one value for all batches: inputs: { ${JSON.stringify(name)}: { value } }.`,
        },
      );
    }
    return {
      name,
      dtype,
      shape: shape?.slice(1),
      rows,
      ...(padValue !== undefined && { padValue }),
    };
  });
}

function chooseParameters(graph: Graph, trainable: OnnxModelOptions['trainable']): ParameterInfo[] {
  const likely = new Set(likelyParameters(graph));
  return [...graph.initializers].flatMap(([name, { dtype, dims }]) => {
    if (dtype !== 'float32') return [];
    const chosen = trainable ? numel(dims) > 0 && trainable(name, dims) : likely.has(name);
    return chosen ? [{ name, shape: dims }] : [];
  });
}

/** Cache outputs of decoders exported with one: `present.0.key`. */
const cacheOutput = /^present[._]/;

function defaultOutputs(graph: Graph, loss: Loss): string[] {
  const source = lossOutput(loss);
  if (loss.type !== 'output') return [source];
  return graph.outputs
    .filter(({ name, dtype }) => dtype === 'float32' && name !== source && !cacheOutput.test(name))
    .map(({ name }) => name);
}

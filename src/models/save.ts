/** Writing a model folder that Hugging Face transformers and `loadPretrained` read. */
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { DeepSpeedError } from '../errors.ts';
import { numel } from '../graph/tensor.ts';
import { type ModelConfig, modelParameters } from './config.ts';
import type { Json } from './config-fields.ts';
import { type ParameterSource, toBytes } from './parameter-source.ts';
import type { ParameterSpec } from './parameters.ts';
import { dataBytes, type TensorToWrite, writeSafetensors } from './safetensors-write.ts';

const architectures: { [M in ModelConfig['modelType']]: string } = {
  gpt2: 'GPT2LMHeadModel',
  llama: 'LlamaForCausalLM',
};

export interface SaveParametersOptions {
  /** How the numbers are stored; default float32. */
  dtype?: 'float32' | 'float16' | 'bfloat16';
  /** Larger models are split into files of at most this many bytes. Default 5e9, as transformers has had it. */
  maxShardBytes?: number;
}

/** Elements read and written at a time: 16 MiB of float32. */
const chunkElements = 4 * 2 ** 20;

/**
 * Writes config.json and model.safetensors (or shards and their index) into `dir`. Weights come first, so
 * that a folder with a new config.json has its weights.
 *
 * @throws WEIGHTS_MISMATCH when a parameter is missing or of another shape; OUTPUT_NOT_WRITABLE.
 */
export async function saveParameters(
  dir: string,
  config: ModelConfig,
  parameters: ReadonlyMap<string, ParameterSource>,
  options: SaveParametersOptions = {},
): Promise<void> {
  const sources = modelParameters(config).map(
    (spec) => [spec.name, checkShape(spec, parameters.get(spec.name))] as const,
  );
  await saveWeights(dir, new Map(sources), options);
  await saveModelConfig(dir, config, options.dtype);
}

/**
 * Writes model.safetensors (or shards and their index) into `dir`, and then removes the weights that these replace:
 * a reader takes model.safetensors first, the index of an older model second. Other files stay.
 *
 * @returns the files' names
 * @throws OUTPUT_NOT_WRITABLE
 */
export async function saveWeights(
  dir: string,
  parameters: ReadonlyMap<string, ParameterSource>,
  { dtype = 'float32', maxShardBytes = 5e9 }: SaveParametersOptions = {},
): Promise<string[]> {
  const tensors = [...parameters].map(
    ([name, source]): TensorToWrite => ({
      name,
      dtype,
      shape: source.shape,
      chunks: () => chunks(source, dtype),
    }),
  );
  await writable(dir, async () => makeFolder(dir));
  const shards = splitShards(tensors, maxShardBytes);
  const replaced = await weightFiles(dir);
  for (const [file, part] of shards) await writeSafetensors(join(dir, file), part);
  if (shards.size > 1) await writeIndex(dir, shards);
  const written = new Set([...shards.keys(), ...(shards.size > 1 ? [indexFile] : [])]);
  for (const file of replaced.filter((name) => !written.has(name))) {
    await writable(join(dir, file), () => rm(join(dir, file), { force: true }));
  }
  return [...shards.keys()];
}

const singleFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';

/** The weights that a folder holds, as `saveWeights` names them: shards only where the index lists them. */
async function weightFiles(dir: string): Promise<string[]> {
  const index = await readFile(join(dir, indexFile), 'utf8').catch(() => null);
  return [singleFile, ...(index === null ? [] : [indexFile, ...listedShards(index)])];
}

function listedShards(index: string): string[] {
  try {
    const { weight_map: files } = JSON.parse(index) as { weight_map: Record<string, unknown> };
    return [...new Set(Object.values(files))]
      .map(String)
      .filter((file) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(file));
  } catch {
    return [];
  }
}

/** The source, if it is one for this parameter; else WEIGHTS_MISMATCH. */
export function checkShape(
  { name, shape }: ParameterSpec,
  source: ParameterSource | undefined,
): ParameterSource {
  if (source !== undefined && source.shape.join() === shape.join()) return source;
  const got = source === undefined ? 'missing' : `of shape [${source.shape}]`;
  throw new DeepSpeedError('WEIGHTS_MISMATCH', `${name} [${shape}] is ${got}`);
}

/** Writes config.json. */
export function saveModelConfig(
  dir: string,
  config: ModelConfig,
  dtype = 'float32',
): Promise<void> {
  return writeJson(join(dir, 'config.json'), modelConfigJson(config, dtype));
}

/** config.json: the fields as they were read, and what readers look for although it has a default. */
export function modelConfigJson(config: ModelConfig, dtype = 'float32'): Json {
  const { torch_dtype: _, ...json } = config.json;
  return {
    ...sizes(config),
    ...json,
    model_type: config.modelType,
    architectures: [architectures[config.modelType]],
    // What transformers 4 reads; version 5 takes it as `dtype`.
    ...('dtype' in json ? { dtype } : { torch_dtype: dtype }),
  };
}

/** transformers.js knows no defaults: it finds the cache's names by these fields. */
function sizes(config: ModelConfig): Json {
  if (config.modelType === 'gpt2') {
    return {
      vocab_size: config.vocabSize,
      n_positions: config.maxPositions,
      n_embd: config.width,
      n_layer: config.layers,
      n_head: config.heads,
    };
  }
  return {
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositions,
    hidden_size: config.width,
    intermediate_size: config.innerWidth,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headWidth,
  };
}

/** A JSON file that is there whole or not at all. */
export async function writeJson(path: string, value: object): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`;
  await writable(path, async () => {
    try {
      await writeFile(temporary, `${JSON.stringify(value, null, 2)}\n`);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  });
}

/** Runs a file operation; its failure becomes OUTPUT_NOT_WRITABLE naming the path. */
export async function writable<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const message = `cannot write ${path}: ${(cause as Error).message}`;
    throw new DeepSpeedError('OUTPUT_NOT_WRITABLE', message, { cause, data: { path } });
  }
}

function* chunks(
  source: ParameterSource,
  dtype: 'float32' | 'float16' | 'bfloat16',
): Generator<Uint8Array> {
  const total = numel(source.shape);
  for (let start = 0; start < total; start += chunkElements) {
    yield toBytes(source.read(start, Math.min(chunkElements, total - start)), dtype);
  }
}

/** File name → tensors, in order; a new file when the next tensor would exceed the limit. */
function splitShards(
  tensors: readonly TensorToWrite[],
  maxShardBytes: number,
): Map<string, TensorToWrite[]> {
  const parts: TensorToWrite[][] = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = dataBytes([tensor]);
    if (bytes + size > maxShardBytes && bytes > 0) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1)!.push(tensor);
    bytes += size;
  }
  if (parts.length === 1) return new Map([[singleFile, parts[0]!]]);
  const digits = (value: number) => String(value).padStart(5, '0');
  const name = (i: number) => `model-${digits(i + 1)}-of-${digits(parts.length)}.safetensors`;
  return new Map(parts.map((part, i) => [name(i), part]));
}

function writeIndex(dir: string, shards: Map<string, TensorToWrite[]>): Promise<void> {
  const weightMap = [...shards].flatMap(([file, part]) => part.map(({ name }) => [name, file]));
  return writeJson(join(dir, indexFile), {
    metadata: { total_size: dataBytes([...shards.values()].flat()) },
    weight_map: Object.fromEntries(weightMap),
  });
}

/** Weights of a model folder in Hugging Face's layout: finding the files and fitting names and shapes. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import { loadModelConfig, type ModelConfig, modelParameters } from './config.ts';
import { fileSource, isWeightType, type ParameterSource } from './parameter-source.ts';
import { SafetensorsFile } from './safetensors.ts';

export interface PretrainedModel {
  config: ModelConfig;
  /** In the order of `modelParameters(config)`; each reads its file when asked. */
  parameters: Map<string, ParameterSource>;
  /** Closes the files; the sources must not be read afterwards. */
  close(): void;
}

/** Names begin with this in files of the whole model, and without it in files of the bare decoder. */
const prefixes: { [M in ModelConfig['modelType']]: string } = {
  gpt2: 'transformer.',
  llama: 'model.',
};

/** Buffers that older versions of transformers saved with the weights: constants, not parameters. */
const buffers = /\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$/;

/**
 * Opens config.json and model.safetensors (or the shards of model.safetensors.index.json).
 * float16, bfloat16 and float64 weights are read as float32.
 *
 * @throws MODEL_FOLDER_INVALID without config or weights; WEIGHTS_INVALID for a damaged file;
 *   WEIGHTS_MISMATCH listing every parameter that is missing, unexpected or of another shape or type.
 */
export async function loadPretrained(dir: string): Promise<PretrainedModel> {
  const config = await loadModelConfig(dir);
  const files = openFiles(dir);
  const close = () => {
    for (const file of files) file.close();
  };
  try {
    return { config, parameters: fitWeights(config, files, dir), close };
  } catch (error) {
    close();
    throw error;
  }
}

function openFiles(dir: string): SafetensorsFile[] {
  const single = join(dir, 'model.safetensors');
  if (existsSync(single)) return [new SafetensorsFile(single)];
  const index = join(dir, 'model.safetensors.index.json');
  if (existsSync(index)) return openShards(dir, index);
  const others = ['pytorch_model.bin', 'tf_model.h5', 'flax_model.msgpack'];
  const other = others.find((name) => existsSync(join(dir, name)));
  throw new DeepSpeedError(
    'MODEL_FOLDER_INVALID',
    `${dir} has no model.safetensors${other === undefined ? '' : `, only ${other}`}`,
    {
      fix: 'Save the weights as safetensors, or start from config.json alone with new weights.',
      data: { dir },
    },
  );
}

function openShards(dir: string, index: string): SafetensorsFile[] {
  const names = new Set(Object.values(weightMap(index)));
  const opened: SafetensorsFile[] = [];
  try {
    for (const name of names) {
      if (basename(name) !== name) throw indexInvalid(index, `file ${name} is not in the folder`);
      opened.push(new SafetensorsFile(join(dir, name)));
    }
    return opened;
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

function weightMap(index: string): Record<string, string> {
  try {
    const map: unknown = JSON.parse(readFileSync(index, 'utf8')).weight_map;
    if (typeof map === 'object' && map !== null) return map as Record<string, string>;
  } catch (cause) {
    throw indexInvalid(index, `cannot be read: ${(cause as Error).message}`);
  }
  throw indexInvalid(index, 'has no weight_map');
}

function indexInvalid(index: string, message: string): DeepSpeedError {
  return new DeepSpeedError('WEIGHTS_INVALID', `${index}: ${message}`, { data: { path: index } });
}

/** Sources by parameter name; everything that does not fit goes into one error. */
function fitWeights(
  config: ModelConfig,
  files: readonly SafetensorsFile[],
  dir: string,
): Map<string, ParameterSource> {
  const specs = modelParameters(config);
  const known = new Set(specs.map((spec) => spec.name));
  const stored = new Map<string, { file: SafetensorsFile; name: string }>();
  const problems: string[] = [];
  for (const file of files) {
    for (const name of file.tensors.keys()) {
      const parameter = [name, prefixes[config.modelType] + name].find((n) => known.has(n));
      if (parameter !== undefined) stored.set(parameter, { file, name });
      else if (!isRedundant(name, config)) problems.push(`${name}: not a parameter of this model`);
    }
  }
  const sources = new Map<string, ParameterSource>();
  for (const { name, shape } of specs) {
    const found = stored.get(name);
    if (found === undefined) {
      problems.push(`${name}: missing`);
      continue;
    }
    const tensor = found.file.tensors.get(found.name)!;
    if (tensor.shape.join() !== shape.join()) {
      problems.push(`${name}: has shape [${tensor.shape}], the model's is [${shape}]`);
    } else if (!isWeightType(tensor.dtype)) {
      problems.push(`${name}: has type ${tensor.dtype}, not a float type`);
    } else {
      sources.set(name, fileSource(found.file, found.name));
    }
  }
  if (problems.length > 0) throw mismatch(dir, problems);
  return sources;
}

/** A tied head is the embedding once more. */
function isRedundant(name: string, config: ModelConfig): boolean {
  return buffers.test(`.${name}`) || (config.tieWordEmbeddings && name === 'lm_head.weight');
}

const shown = 20;

function mismatch(dir: string, problems: readonly string[]): DeepSpeedError {
  const lines = problems.slice(0, shown).map((problem) => `\n  ${problem}`);
  const rest = problems.length > shown ? `\n  and ${problems.length - shown} more` : '';
  return new DeepSpeedError(
    'WEIGHTS_MISMATCH',
    `the weights of ${dir} do not fit its config.json:${lines.join('')}${rest}`,
    { data: { problems } },
  );
}

/** From a model folder or a parsed config.json to a checked, typed configuration. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import type { Json } from './config-fields.ts';
import { type Gpt2Config, parseGpt2Config } from './gpt2-config.ts';
import { gpt2Parameters } from './gpt2.ts';
import { type LlamaConfig, parseLlamaConfig } from './llama-config.ts';
import { llamaParameters } from './llama.ts';
import type { ParameterSpec } from './parameters.ts';

export type ModelConfig = Gpt2Config | LlamaConfig;

const parsers: { [M in ModelConfig['modelType']]: (json: Json, where: string) => ModelConfig } = {
  gpt2: parseGpt2Config,
  llama: parseLlamaConfig,
};

/**
 * Checks a Hugging Face config. Absent fields take transformers' defaults.
 *
 * @throws MODEL_UNSUPPORTED for another model_type; MODEL_CONFIG_INVALID listing every field that is
 *   wrong, contradictory, or unknown and therefore possibly important.
 */
export function parseModelConfig(json: Json, where = 'config.json'): ModelConfig {
  const parse = parsers[json.model_type as ModelConfig['modelType']];
  if (parse === undefined) {
    const supported = Object.keys(parsers).join(', ');
    throw new DeepSpeedError(
      'MODEL_UNSUPPORTED',
      `${where}: model_type ${JSON.stringify(json.model_type) ?? 'is missing'}; supported: ${supported}`,
      { data: { modelType: json.model_type, supported: Object.keys(parsers) } },
    );
  }
  return parse(json, where);
}

/** Reads `<dir>/config.json`. @throws MODEL_FOLDER_INVALID when the folder has none, and as parseModelConfig. */
export async function loadModelConfig(dir: string): Promise<ModelConfig> {
  const path = join(dir, 'config.json');
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    const what = cause instanceof SyntaxError ? 'is not JSON' : 'cannot be read';
    throw new DeepSpeedError(
      'MODEL_FOLDER_INVALID',
      `${path} ${what}: ${(cause as Error).message}`,
      {
        cause,
        data: { path },
      },
    );
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new DeepSpeedError('MODEL_FOLDER_INVALID', `${path} is not a JSON object`, {
      data: { path },
    });
  }
  return parseModelConfig(json as Json, path);
}

/** Every trainable parameter, in the order of the forward pass. Tied embeddings appear once. */
export function modelParameters(config: ModelConfig): ParameterSpec[] {
  return config.modelType === 'gpt2' ? gpt2Parameters(config) : llamaParameters(config);
}

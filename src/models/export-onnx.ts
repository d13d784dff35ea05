/** Writing a folder that transformers.js generates text from. */
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { fromTyped } from '../graph/tensor.ts';
import { saveModel } from '../graph/save.ts';
import { type ModelConfig, modelParameters } from './config.ts';
import { buildDecoderGraph } from './decoder-graph.ts';
import type { ParameterSource } from './parameter-source.ts';
import { checkShape, modelConfigJson, writable, writeJson } from './save.ts';
import { onnxOpset } from './training-graph.ts';

export interface ExportOnnxOptions {
  /** Weights in onnx/model.onnx_data. Default: when they exceed 1 GiB, as one file holds at most 2. */
  externalData?: boolean;
}

const externalFrom = 2 ** 30;

/** ONNX 1.16's: read by every ONNX Runtime that has operator set 21. */
const irVersion = 10;

/**
 * Writes `onnx/model.onnx` (a decoder with key/value cache; see buildDecoderGraph), config.json and
 * generation_config.json. With the tokenizer's files beside them the folder is complete:
 * `pipeline('text-generation', dir, { dtype: 'fp32' })`.
 *
 * @throws WEIGHTS_MISMATCH when a parameter is missing or of another shape; OUTPUT_NOT_WRITABLE.
 */
export async function exportOnnx(
  config: ModelConfig,
  parameters: ReadonlyMap<string, ParameterSource>,
  dir: string,
  options: ExportOnnxOptions = {},
): Promise<void> {
  const tensors = modelParameters(config).map((spec) => {
    const values = checkShape(spec, parameters.get(spec.name)).read();
    return [spec.name, fromTyped('float32', spec.shape, values)] as const;
  });
  const bytes = tensors.reduce((sum, [, tensor]) => sum + tensor.data.length, 0);
  const externalData = options.externalData ?? bytes > externalFrom;
  const path = join(dir, 'onnx', 'model.onnx');
  await writable(path, async () => makeFolder(join(dir, 'onnx')));
  await saveModel(
    {
      irVersion,
      producerName: 'deepspeed-js',
      opsets: new Map([['', onnxOpset]]),
      graph: buildDecoderGraph(config, new Map(tensors)),
      metadata: new Map(),
    },
    path,
    { externalData },
  );
  await writeJson(join(dir, 'config.json'), {
    ...modelConfigJson(config),
    ...(externalData ? { 'transformers.js_config': { use_external_data_format: true } } : {}),
  });
  await writeJson(join(dir, 'generation_config.json'), generationConfig(config));
}

/** Which tokens begin, end and pad a text: what transformers.js's generate() reads. */
function generationConfig(config: ModelConfig): object {
  const { bos_token_id, eos_token_id, pad_token_id } = config.json;
  const ids = { bos_token_id, eos_token_id, pad_token_id: pad_token_id ?? eos_token_id };
  const given = Object.entries(ids).filter(([, id]) => id !== undefined && id !== null);
  return { _from_model_config: true, ...Object.fromEntries(given) };
}

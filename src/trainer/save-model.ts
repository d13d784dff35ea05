import { copyFile, mkdir } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import { arraySource, exportOnnx, saveModelConfig, saveParameters } from '../models/index.ts';
import { agree } from '../strategies/agree.ts';
import type { TrainableModel } from '../hosts/onnx/model.ts';
import type { Training } from './setup.ts';

const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'];

/** Rank 0 writes the folder; a failure there is the same error on every rank. */
export async function saveTrainedModel(
  training: Training,
  model: TrainableModel,
  folder: string,
  tokenizer: string | undefined,
): Promise<void> {
  const { runtime, host } = training;
  await runtime.engine.idle();
  await agree(runtime.communicator, async () => {
    if (runtime.rank !== 0) return;
    const { config } = model;
    if (!config) {
      throw new DeepSpeedError(
        'NOT_AVAILABLE_YET',
        'saveModel needs a model made from a config.json; a bare graph cannot be exported yet',
      );
    }
    const parameters = new Map(
      model.parameters.map(({ name, shape }) => [name, arraySource(shape, host.parameter(name))]),
    );
    await mkdir(folder, { recursive: true });
    await saveModelConfig(folder, config);
    await saveParameters(folder, config, parameters);
    await exportOnnx(config, parameters, folder);
    for (const file of tokenizer === undefined ? [] : tokenizerFiles) {
      const source = join(tokenizer!, file);
      if (existsSync(source)) await copyFile(source, join(folder, file));
    }
  });
}

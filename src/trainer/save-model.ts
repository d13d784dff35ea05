import { copyFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { agree } from '../strategies/agree.ts';
import type { TrainableModel } from '../hosts/onnx/model.ts';
import { writable } from '../models/index.ts';
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
  await agree(runtime, async () => {
    if (runtime.rank !== 0) return;
    await writable(folder, async () => makeFolder(folder));
    await model.save(folder, (name) => host.parameter(name));
    for (const file of tokenizer === undefined ? [] : tokenizerFiles) {
      const source = join(tokenizer!, file);
      const target = join(folder, file);
      if (existsSync(source)) await writable(target, () => copyFile(source, target));
    }
  });
}

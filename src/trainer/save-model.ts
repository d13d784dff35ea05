import { copyFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { agree } from '../strategies/agree.ts';
import type { TrainableModel } from '../hosts/onnx/model.ts';
import { writable } from '../models/index.ts';
import type { Training } from './setup.ts';

const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'];

/**
 * Rank 0 writes the folder; a failure there is the same error on every rank. Where parameters are sharded
 * they are gathered one by one, and rank 0 holds all of them until the folder is written.
 */
export async function saveTrainedModel(
  training: Training,
  model: TrainableModel,
  folder: string,
  tokenizer: string | undefined,
): Promise<void> {
  const { runtime, host } = training;
  await runtime.engine.idle();
  const values = new Map<string, Float32Array>();
  for (const { name } of model.parameters) {
    const value = host.parameter(name);
    if (runtime.rank === 0) values.set(name, value);
  }
  await agree(runtime, async () => {
    if (runtime.rank !== 0) return;
    await writable(folder, async () => makeFolder(folder));
    await model.save(folder, (name) => values.get(name)!);
    for (const file of tokenizer === undefined ? [] : tokenizerFiles) {
      const source = join(tokenizer!, file);
      const target = join(folder, file);
      if (existsSync(source)) await writable(target, () => copyFile(source, target));
    }
  });
}

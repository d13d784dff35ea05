/** What a config file comes to on this machine, for `ds_report --config FILE`. */
import {
  type Explanation,
  explainConfig,
  readConfig,
  resolveConfig,
  trainerAutos,
} from '../config/index.ts';
import { trainingArgumentsSchema } from '../trainer/arguments.ts';
import { loadModelConfig, modelParameters } from '../models/config.ts';
import { countParameters } from '../models/parameters.ts';

export interface EffectiveConfig extends Explanation {
  worldSize: number;
  /** Elements that training updates; null without `--model`. */
  parameterCount: number | null;
  /** What stands for values that only a training script knows. */
  assumptions: string[];
}

const batchKeys = ['train_batch_size', 'train_micro_batch_size_per_gpu'];
/** Stands for what the number of optimizer steps and the hidden size fill, where nobody names them. */
const ASSUMED_STEPS = 1000;
const ASSUMED_HIDDEN_SIZE = 768;

/**
 * @param modelFolder a folder with a Hugging Face config.json, or null
 * @throws DeepSpeedError as readConfig, resolveConfig and loadModelConfig do.
 */
export async function effectiveConfig(
  path: string,
  modelFolder: string | null,
  worldSize: number,
): Promise<EffectiveConfig> {
  const written = readConfig(path);
  const sized = batchKeys.some((key) => written.values[key] !== undefined);
  const raw = sized
    ? written
    : { ...written, values: { ...written.values, train_micro_batch_size_per_gpu: 1 } };
  const model = modelFolder === null ? null : await loadModelConfig(modelFolder);
  const defaults = trainingArgumentsSchema.parse({ outputDir: '.' });
  const autos = trainerAutos({}, defaults, {
    worldSize,
    totalSteps: ASSUMED_STEPS,
    hiddenSize: model?.width ?? ASSUMED_HIDDEN_SIZE,
  });
  const config = resolveConfig(raw, { worldSize, autos, hostLearningRate: defaults.learningRate });
  const parameterCount = model === null ? null : countParameters(modelParameters(model));
  const explanation = explainConfig(config, parameterCount === null ? {} : { parameterCount });
  const usesAuto = explanation.values.some(({ origin }) => origin === 'auto');
  return {
    ...explanation,
    worldSize,
    parameterCount,
    assumptions: [
      ...(usesAuto
        ? [
            `"auto" is shown for the defaults of a Trainer, ${ASSUMED_STEPS} optimizer steps and a hidden size of ${model?.width ?? ASSUMED_HIDDEN_SIZE}`,
          ]
        : []),
      ...(sized ? [] : ['no batch size is given, so that of the script counts; 1 a rank is shown']),
    ],
  };
}

import { describe, expect, it } from 'vitest';
import { readConfig } from '../config/index.ts';
import { parseArguments, type TrainingArguments } from './arguments.ts';
import { makeRecipe } from './recipe.ts';

describe('batch sizes', () => {
  const sizes = (config: object, more: Partial<TrainingArguments> = {}, worldSize = 2) => {
    const given = { outputDir: '.', ...more };
    const recipe = makeRecipe({
      raw: readConfig(config as Record<string, unknown>),
      given,
      args: parseArguments(given),
      worldSize,
      totalSteps: () => 10,
    });
    // What the config says of itself is what is trained.
    expect(recipe.config!.train_batch_size).toBe(
      recipe.microBatchSize * recipe.microBatches * worldSize,
    );
    return [recipe.microBatchSize, recipe.microBatches];
  };

  it('train_batch_size alone is divided by the ranks; a default nobody gave does not count', () => {
    expect(sizes({ train_batch_size: 4 })).toEqual([2, 1]);
    expect(sizes({ train_batch_size: 1 }, {}, 1)).toEqual([1, 1]);
    expect(sizes({ train_batch_size: 48 })).toEqual([24, 1]);
  });

  it('beside it an argument that was given counts', () => {
    expect(sizes({ train_batch_size: 16 }, { perDeviceTrainBatchSize: 2 })).toEqual([2, 4]);
    expect(sizes({ train_batch_size: 16 }, { gradientAccumulationSteps: 2 })).toEqual([4, 2]);
    const both = { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2 };
    expect(sizes({ train_batch_size: 16 }, both)).toEqual([4, 2]);
    expect(() => sizes({ train_batch_size: 12 }, { perDeviceTrainBatchSize: 8 })).toThrow(
      /train_batch_size 12 is not train_micro_batch_size_per_gpu 8 /,
    );
  });

  it('two sizes of the file say it all', () => {
    const file = { train_batch_size: 16, gradient_accumulation_steps: 4 };
    expect(sizes(file, { perDeviceTrainBatchSize: 8 })).toEqual([2, 4]);
  });

  it('arguments and their defaults fill what no train_batch_size decides', () => {
    expect(sizes({})).toEqual([8, 1]);
    expect(sizes({ train_batch_size: 'auto' })).toEqual([8, 1]);
    expect(sizes({ train_micro_batch_size_per_gpu: 3 }, { gradientAccumulationSteps: 5 })).toEqual([
      3, 5,
    ]);
    expect(sizes({ train_batch_size: 32, train_micro_batch_size_per_gpu: 'auto' })).toEqual([8, 2]);
  });
});

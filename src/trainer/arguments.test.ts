import { describe, expect, it } from 'vitest';
import { parseArguments, trainingArgumentsSchema } from './arguments.ts';

const problemsOf = (input: object): string => {
  try {
    parseArguments({ outputDir: 'out', ...input });
  } catch (error) {
    expect(error).toMatchObject({ code: 'ARGUMENTS_INVALID' });
    return (error as Error).message;
  }
  throw new Error('the arguments were taken');
};

it.each(Object.keys(trainingArgumentsSchema.shape).filter((name) => /[A-Z]/.test(name)))(
  '%s in snake_case is an error that gives the name',
  (name) => {
    const snake = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    expect(problemsOf({ [snake]: 1 })).toContain(`${snake}: write ${name}`);
  },
);

describe('what is wrong is named', () => {
  it.each([
    [{ learningrate: 1 }, /learningrate is not an argument; did you mean learningRate\?/],
    [{ qqqqqqqqqqqqqqqqq: 1 }, /qqqqqqqqqqqqqqqqq is not an argument$/m],
    [{ perDeviceTrainBatchSize: 0 }, /perDeviceTrainBatchSize: got 0, expected more than 0$/m],
    [{ maxSteps: 2.5 }, /maxSteps: got 2\.5, expected a whole number$/m],
    [{ learningRate: '1e-3' }, /learningRate: got '1e-3', expected a number$/m],
    [{ learningRate: NaN }, /learningRate: got NaN, expected a number$/m],
    [{ bf16: 1 }, /bf16: got 1, expected true or false$/m],
    [{ adamBeta1: 2 }, /adamBeta1: got 2, expected at most 1$/m],
    [{ warmupSteps: -1 }, /warmupSteps: got -1, expected at least 0$/m],
    [{ outputDir: '' }, /outputDir: got '', expected a text that is not empty$/m],
    [{ outputDir: undefined }, /outputDir is missing; expected a text$/m],
    [
      { lrSchedulerType: 'cosin' },
      /lrSchedulerType: got 'cosin', expected "linear", "cosine", .*; did you mean "cosine"\?$/m,
    ],
    [{ reportTo: 'csv' }, /reportTo: got 'csv', expected a list$/m],
    [{ reportTo: ['wandb'] }, /reportTo\.0: got 'wandb', expected "tensorboard", "csv"$/m],
    [{ executionProvider: 'cuda' }, /executionProvider: got 'cuda', expected "cpu", "webgpu"$/m],
    [{ strategy: 5 }, /strategy: got 5, expected a text or a strategy \{ name, apply \}$/m],
    [{ strategy: { name: 'mine' } }, /strategy: got \{ name: 'mine' \}, expected a text or /],
    [{ deepspeed: 5 }, /deepspeed: got 5, expected a text or an object$/m],
    [{ evalSteps: 5 }, /evalSteps needs evalStrategy "steps"/],
    [{ loadBestModelAtEnd: true }, /loadBestModelAtEnd needs evalStrategy/],
    [
      { loadBestModelAtEnd: true, evalStrategy: 'epoch' },
      /same saveStrategy and evalStrategy, got "steps" and "epoch"/,
    ],
  ])('%o', (input, message) => {
    expect(problemsOf(input)).toMatch(message);
  });

  it('all of it at once', () => {
    const message = problemsOf({ save_steps: 3, maxSteps: -1, outputDir: '' });
    for (const name of ['write saveSteps', 'maxSteps: ', 'outputDir: '])
      expect(message).toContain(name);
  });
});

it('what is not given has the default of Hugging Face', () => {
  expect(parseArguments({ outputDir: 'out' })).toMatchObject({
    perDeviceTrainBatchSize: 8,
    gradientAccumulationSteps: 1,
    numTrainEpochs: 3,
    learningRate: 5e-5,
    weightDecay: 0,
    maxGradNorm: 1,
    lrSchedulerType: 'linear',
    saveSteps: 500,
    seed: 42,
  });
  expect(
    parseArguments({ outputDir: 'out', evalStrategy: 'steps', loggingSteps: 7 }).evalSteps,
  ).toBe(7);
});

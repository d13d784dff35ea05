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
    [{ perDeviceTrainBatchSize: 0 }, /perDeviceTrainBatchSize: /],
    [{ adamBeta1: 2 }, /adamBeta1: /],
    [{ lrSchedulerType: 'cosin' }, /lrSchedulerType: /],
    [{ strategy: 5 }, /strategy: /],
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

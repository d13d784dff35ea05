/** What a resumed run knows of the one before it, and how a Trainer ends. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { applyDataParallel } from '../strategies/deepspeed.ts';
import type { StrategyContext } from '../strategies/plugin.ts';
import { earlyStopping, type TrainerCallback } from './callbacks.ts';
import { tinySamples, tinyTrainer } from './testing/tiny-trainer.ts';
import type { Trainer, TrainerOptions } from './trainer.ts';

let outputDir: string;
beforeEach(() => {
  outputDir = mkdtempSync(`${tmpdir()}/deepspeed-js-`);
  vi.spyOn(console, 'log').mockImplementation(() => {});
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(outputDir, { recursive: true, force: true });
});

const samples = tinySamples(16);

function make(
  args: Partial<TrainerOptions['args']>,
  callbacks: TrainerCallback[] = [],
  trainDataset: TrainerOptions['trainDataset'] = samples,
): Trainer {
  return tinyTrainer(
    {
      outputDir,
      lrSchedulerType: 'constant',
      learningRate: 0.01,
      saveStrategy: 'steps',
      saveSteps: 1,
      ...args,
    },
    { trainDataset, evalDataset: samples, callbacks },
  );
}

async function train(trainer: Trainer, resumeFromCheckpoint: boolean) {
  try {
    const { globalStep } = await trainer.train({ resumeFromCheckpoint });
    return { globalStep, history: trainer.state.logHistory };
  } finally {
    await trainer.close();
  }
}

/** Evaluations never get better than the first. */
const worse: TrainerCallback = {
  onEvaluate({ metrics, state }) {
    metrics.eval_loss = state.step;
  },
};

describe('a resumed run', () => {
  const evaluating = { evalStrategy: 'steps', evalSteps: 1 } as const;

  it('goes on waiting where early stopping was: each of two counts by itself', async () => {
    const callbacks = () => [worse, earlyStopping({ patience: 9 }), earlyStopping({ patience: 3 })];
    const whole = await train(make({ ...evaluating, maxSteps: 12 }, callbacks()), false);
    expect(whole.globalStep).toBe(4);
    const first = await train(make({ ...evaluating, maxSteps: 3 }, callbacks()), false);
    expect(first.globalStep).toBe(3);
    const rest = await train(make({ ...evaluating, maxSteps: 12 }, callbacks()), true);
    expect(rest.globalStep).toBe(4);
  });

  it('averages the losses that were not logged yet into its first entry', async () => {
    const loss = (history: { step: number; loss?: number }[]) =>
      history.filter((entry) => entry.loss !== undefined && entry.step === 5);
    // A run's end logs what is left, so the first one is cut short, not finished.
    const stop: TrainerCallback = {
      onSave({ state }) {
        if (state.step === 3) throw new Error('cut short');
      },
    };
    await expect(train(make({ loggingSteps: 5, maxSteps: 5 }, [stop]), false)).rejects.toThrow(
      'cut short',
    );
    const rest = await train(make({ loggingSteps: 5, maxSteps: 5 }), true);
    const whole = await train(make({ loggingSteps: 5, maxSteps: 5 }), false);
    expect(loss(rest.history)).toHaveLength(1);
    expect(loss(rest.history)).toEqual(loss(whole.history));
  });

  it('gives callbacks what they saved, and leaves those alone that saved nothing', async () => {
    const loaded: unknown[] = [];
    const remembers = (name: string): TrainerCallback => ({
      name,
      saveState: () => ({ of: name }),
      loadState: (state) => void loaded.push(state),
    });
    await train(make({ maxSteps: 1 }, [remembers('a'), remembers('b')]), false);
    await train(make({ maxSteps: 2 }, [remembers('c'), remembers('b'), worse]), true);
    expect(loaded).toEqual([{ of: 'b' }]);
  });

  describe('in another folder', () => {
    // Losses fall, so that the first is the greatest.
    const best = { ...evaluating, loadBestModelAtEnd: true, greaterIsBetter: true };
    const from = () => `${outputDir}/from`;
    const lossAtEnd = async (args: Partial<TrainerOptions['args']>) => {
      const trainer = make(args);
      try {
        await trainer.train({ resumeFromCheckpoint: from() });
        return { ...(await trainer.evaluate()), best: trainer.state.bestCheckpoint };
      } finally {
        await trainer.close();
      }
    };
    beforeEach(async () => {
      await train(make({ ...best, outputDir: from(), maxSteps: 2 }), false);
    });

    it('loads the best checkpoint from where it is, not one of its name', async () => {
      // Another run's first step, with other weights.
      await train(make({ maxSteps: 1, learningRate: 0.5 }), false);
      const { eval_loss, best: found } = await lossAtEnd({ ...best, maxSteps: 3 });
      expect(found).toBe(`${from()}/global_step1`);
      const alone = make({});
      await alone.loadCheckpoint(`${from()}/global_step1`);
      expect(eval_loss).toBe((await alone.evaluate()).eval_loss);
      await alone.close();
    });

    it('knows the folder by another name, and keeps the best checkpoint there', async () => {
      symlinkSync(from(), `${outputDir}/link`);
      const args = { ...best, outputDir: `${outputDir}/link`, maxSteps: 4, saveTotalLimit: 1 };
      expect((await lossAtEnd(args)).best).toBe('global_step1');
    });

    it('does without the best checkpoint once that is gone', async () => {
      rmSync(`${from()}/global_step1`, { recursive: true });
      const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
      const { best: found } = await lossAtEnd({ ...best, maxSteps: 3 });
      expect(found).toBe('global_step3');
      expect(warn).toHaveBeenCalledWith(
        expect.stringContaining(`${from()}/global_step1, is gone`),
        { code: 'DEEPSPEED_JS_BEST_GONE' },
      );
    });
  });

  it('at another batch size goes on with the very next sample', async () => {
    const fetched: number[] = [];
    const trainDataset = {
      length: samples.length,
      get(index: number) {
        fetched.push(index);
        return samples[index]!;
      },
    };
    const whole = { perDeviceTrainBatchSize: 6, numTrainEpochs: 1 };
    await train(make({ ...whole, maxSteps: 1 }, [], trainDataset), false);
    const seen = new Set(fetched);
    expect(seen.size).toBe(6);
    fetched.length = 0;
    const rest = await train(
      make({ ...whole, perDeviceTrainBatchSize: 4, numTrainEpochs: 1 }, [], trainDataset),
      true,
    );
    // 6 and then 4, 4, 2 of 16 samples.
    expect(rest.globalStep).toBe(4);
    expect(new Set([...seen, ...fetched]).size).toBe(16);
  });

  it('says so where there is nothing left to do', async () => {
    const trainer = make({ maxSteps: 1, disableTqdm: false });
    await trainer.train();
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    expect((await trainer.train()).globalStep).toBe(1);
    await trainer.close();
    expect(write.mock.calls.join('\n')).toContain(
      'which has taken 1 of 1 steps: raise maxSteps or numTrainEpochs',
    );
  });

  it('refuses a callback that keeps a state without a name', async () => {
    const nameless = { saveState: () => 1, loadState: () => {} };
    await expect(train(make({ maxSteps: 1 }, [nameless]), false)).rejects.toMatchObject({
      code: 'ARGUMENTS_INVALID',
    });
  });
});

it('a run that fails ends the save that is under way, so that it can be resumed from', async () => {
  const fail: TrainerCallback = {
    onStepBegin({ state }) {
      if (state.step === 2) throw new Error('on purpose');
    },
  };
  const trainer = make({ asyncSave: true, saveSteps: 2, maxSteps: 5 }, [fail]);
  await expect(train(trainer, false)).rejects.toThrow('on purpose');
  expect(readFileSync(`${outputDir}/latest`, 'utf8')).toBe('global_step2\n');
});

describe('close', () => {
  it('frees the engine also when a tap on shutdown throws', async () => {
    let context: StrategyContext | undefined;
    const trainer = make({
      maxSteps: 1,
      strategy: {
        name: 'fails late',
        apply(given: StrategyContext) {
          context = given;
          applyDataParallel(given);
          given.lifecycle.tap('shutdown', 'release', 'late.fail', async () => {
            throw new Error('could not let go');
          });
        },
      },
    });
    await trainer.train();
    await expect(trainer.close()).rejects.toThrow('could not let go [in late.fail, shutdown]');
    expect(() => context!.engine.allocate(64, { category: 'inputs' })).toThrow(
      expect.objectContaining({ code: 'DISPOSED' }),
    );
    await trainer.close();
  });

  it('says nothing of a set-up that has failed', async () => {
    const trainer = make({ strategy: 'no such strategy' });
    await expect(trainer.train()).rejects.toMatchObject({ code: 'STRATEGY_UNKNOWN' });
    await trainer.close();
  });
});

/** What the rules of docs/tfjs.md refuse, and how a run stops. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Cases, overRanks } from './tfjs.run.ts';

/** What stops every rank, and with which words. */
const refusals = {
  stateful: 'the layer memory (LSTM) is stateful',
  fixedBatch: 'has the fixed batch size 6',
  precision: 'the metric precision of output 0 is no mean over rows',
  sumLoss: 'loss is 12.39',
  maxMetric: 'largestError is',
  mixedRows: /the gradient of dense_Dense\d+\/kernel is/,
  evaluateMax: 'largestError is',
  precisionOfNothing: /the metric precisionAtHalf of rows made up for a trial is/,
  positivesAlike: /the loss errorOfPositives of rows made up for a trial is/,
  runningMean: /moves to -?0\.\d+ with the whole batch and to -?0\.\d+ with its parts/,
  fading: /loss is \d+\.\d+ of the whole batch and \d+\.\d+ when it is computed once more/,
  evaluateFading: /loss is \d+\.\d+ of the whole batch and \d+\.\d+ when it is computed once more/,
  waitForEachOther: /fit of sequential_\d+_model waits until fit of sequential_\d+_model has ended/,
  waitForTheThird: /^ended; fit of .* waits until .*; fit of .* waits until/,
  heldRandom: 'or draws from a copy of a Math.random that the script has replaced',
  shrinking: /the forward pass has written the variable .*kernel, which is trained/,
  ownMinimize: "the optimizer's own minimize() does not call that of TensorFlow.js",
  ownGradients: 'computes gradients in a way of its own',
  oneRowFirst: /loss is \d+\.\d+ of the whole batch/,
  otherLoss: /loss is \d+\.\d+ of the whole batch/,
  otherData: /at step 3 of sequential_\d+_model, ranks 0 and 1 see other data/,
  otherRows: 'ranks 0 and 1 see batches of 12 and 13 rows',
  minimizeOtherData: "at gradients 1 of the script's own loop, ranks 0 and 1 see other data",
  fewerSteps: 'take other steps',
  evaluatesAlone:
    /at (batch 1 of an evaluation|the end of a batch or an epoch) of sequential_\d+_model, ranks 0 and 1 take other steps/,
  notANumber: /step 3: gradients are not finite: dense_Dense\d+\/kernel on rank 1/,
  disposed: /the variable dense_Dense\d+\/bias was disposed/,
  twoStrategies: /the model sequential_\d+ has two strategies/,
  compiledAgain: /the model sequential_\d+ has two strategies/,
  lateStrategy: /the model sequential_\d+ is trained already/,
  sharedOptimizer: 'one optimizer trains two sets of variables',
  saveNowhere: 'cannot save the model in',
  // The last one: from then on, ranks name their variables differently.
  oneRankOnly: /the ranks train different models: parameter 0 is dense_Dense\d+\/kernel/,
} satisfies Record<string, string | RegExp>;

const names = Object.keys(refusals);
const cases = new Cases(Object.fromEntries(names.map((name) => [name, { name }])));
beforeAll(() => cases.launch(2), 120_000);
afterAll(() => cases.remove());

it.each(Object.entries(refusals))('%s', (name, text) => {
  for (const { error } of cases.outcomes(2, name)) expect(error).toMatch(text);
});

describe('endings', () => {
  /** What the launcher says of a script that must fail. */
  async function lastWordsOf(ranks: number, name: string): Promise<string> {
    const { status, stderr } = await overRanks(ranks, 'rules.ts', [name, cases.folder]);
    expect(status).not.toBe(0);
    return stderr;
  }

  it('a refusal in the middle of training ends the run, and is shown once', async () => {
    const text = await lastWordsOf(2, 'otherData');
    expect(text.match(/ranks 0 and 1 see other data/g)).toHaveLength(1);
  });

  it('a rank that calls process.exit is named, with the place', async () => {
    const text = await lastWordsOf(2, 'exit');
    expect(text).toContain('rank 1 has left (rank 1 called process.exit(0)');
    expect(text).toMatch(/at leaveEarly \(.*rules\.ts/);
  });

  it('so is one that does before it has trained', async () => {
    const text = await lastWordsOf(2, 'exitAtOnce');
    expect(text).toContain('rank 1 has left (rank 1 called process.exit(0)');
    expect(text).toMatch(/at leaveEarly \(.*rules\.ts/);
  });

  it('a training that waits for what never comes is no silent end', async () => {
    const text = await lastWordsOf(2, 'neverEnds');
    expect(text).toMatch(/fit of sequential_\d+_model has not ended, and nothing is left to do/);
  });

  it('an exception on one rank is shown once', async () => {
    const text = await lastWordsOf(3, 'throws');
    expect(text.match(/the callback of rank 1 gave up/g)).toHaveLength(1);
  });
});

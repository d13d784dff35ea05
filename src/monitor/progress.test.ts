import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { createProgress, renderSummary } from './index.ts';
import { formatBytes, formatCount, formatDuration } from './units.ts';

/** A stream that remembers, and claims to be a terminal or not. */
function recorder(isTTY: boolean) {
  const chunks: string[] = [];
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 120 });
  stream.on('data', (chunk) => chunks.push(String(chunk)));
  // The terminal methods of a TTY that the bar calls to move its cursor.
  Object.assign(stream, {
    cursorTo: () => {},
    moveCursor: () => {},
    clearLine: () => {},
    clearScreenDown: () => {},
  });
  return { stream, text: () => chunks.join('') };
}

const update = (step: number) => ({
  step,
  loss: 5 / step,
  perSecond: 1234,
  learningRate: 3e-4,
});

/** A clock that the test moves. */
function clock() {
  const time = { ms: 0 };
  return { time, now: () => time.ms };
}

describe('without a terminal', () => {
  it('prints a line at most every interval, the first and the last step always', () => {
    const { stream, text } = recorder(false);
    const { time, now } = clock();
    const progress = createProgress({
      rank: 0,
      unit: 'tokens',
      totalSteps: 10,
      stream,
      now,
      intervalMs: 5000,
    });
    for (let step = 1; step <= 10; step++) {
      time.ms += 2000;
      progress.update(update(step));
    }
    progress.stop();
    progress.stop();
    const steps = [...text().matchAll(/^step (\d+)\/10/gm)].map((match) => Number(match[1]));
    expect(steps).toEqual([1, 4, 7, 10]);
    expect(text()).not.toContain('\u001B');
  });

  it('shows loss, speed, rate and the time that is left', () => {
    const { stream, text } = recorder(false);
    const { time, now } = clock();
    const progress = createProgress({
      rank: 0,
      unit: 'tokens',
      totalSteps: 110,
      startStep: 100,
      stream,
      now,
    });
    time.ms = 60_000;
    progress.update(update(104)); // 15 s a step, 6 steps to go
    expect(text()).toBe('step 104/110 · loss 0.0481 · 1.23k tokens/s · lr 3.00e-4 · 1:30 left\n');
  });
});

it('draws a bar on a terminal, with lines above it', () => {
  const { stream, text } = recorder(true);
  const progress = createProgress({
    rank: 0,
    unit: 'tokens',
    totalSteps: 4,
    stream,
    interactive: true,
  });
  progress.update(update(1));
  progress.log('evaluation 3.21');
  progress.update(update(4));
  progress.stop();
  progress.stop();
  expect(text()).toContain('evaluation 3.21\n');
  expect(text()).toContain('4/4 loss 1.2500');
  expect(text()).toContain('█');
});

it('chooses plain lines where CI or NO_COLOR is set, even on a terminal', () => {
  for (const name of ['CI', 'NO_COLOR']) {
    const { stream, text } = recorder(true);
    const saved = { CI: process.env.CI, NO_COLOR: process.env.NO_COLOR };
    delete process.env.CI;
    delete process.env.NO_COLOR;
    process.env[name] = '1';
    try {
      createProgress({ rank: 0, unit: 'tokens', totalSteps: 2, stream }).update(update(1));
    } finally {
      delete process.env[name];
      for (const [key, value] of Object.entries(saved))
        if (value !== undefined) process.env[key] = value;
    }
    expect(text()).toMatch(/^step 1\/2 /);
  }
});

it('is silent on other ranks', () => {
  const { stream, text } = recorder(false);
  const progress = createProgress({ rank: 1, unit: 'tokens', totalSteps: 2, stream });
  progress.update(update(1));
  progress.log('line');
  progress.stop();
  expect(text()).toBe('');
});

it('prints only lines of their own where steps are not to be shown', () => {
  const { stream, text } = recorder(true);
  const options = { rank: 0, unit: 'samples', totalSteps: 2, stream } as const;
  const progress = createProgress({ ...options, showSteps: false, interactive: true });
  progress.update(update(1));
  progress.log('evaluation 3.21');
  progress.update(update(2));
  progress.stop();
  expect(text()).toBe('evaluation 3.21\n');
});

it('counts speed in the unit that it is told', () => {
  const { stream, text } = recorder(false);
  createProgress({ rank: 0, unit: 'samples', totalSteps: 2, stream }).update(update(1));
  expect(text()).toContain('1.23k samples/s');
  const summary = { seconds: 2, steps: 1, amount: 64, trainLoss: 1, peakMemory: {}, files: [] };
  expect(renderSummary({ ...summary, unit: 'samples' })).toContain(
    'speed   32 samples/s, 64 samples',
  );
});

it('sums a run up', () => {
  const lines = renderSummary({
    seconds: 90,
    steps: 300,
    amount: 1_800_000,
    unit: 'tokens',
    trainLoss: 4.5,
    evaluationLoss: 4.75,
    peakMemory: { parameters: 4096, gradients: 8192, io: 0 },
    files: ['loss.svg', 'events'],
  });
  expect(lines).toEqual([
    'time    1:30, 300 steps',
    'speed   20.0k tokens/s, 1.80M tokens',
    'loss    train 4.5000, evaluation 4.7500',
    'memory  gradients 8 KB, parameters 4 KB (peak of rank 0)',
    'files   loss.svg',
    '        events',
  ]);
});

it('counts the files of a folder that has many', () => {
  const csv = Array.from({ length: 9 }, (_, index) => `out/csv/${index}.csv`);
  const files = ['out/loss.svg', ...csv, 'out/trace.json'];
  const run = { seconds: 1, steps: 0, amount: 0, trainLoss: 0, peakMemory: {} };
  expect(renderSummary({ ...run, unit: 'samples', files })).toEqual([
    'time    0:01, 0 steps',
    'files   out/loss.svg',
    '        out/csv (9 files)',
    '        out/trace.json',
  ]);
});

it('says nothing about speed and loss where no step was taken', () => {
  const lines = renderSummary({
    seconds: 1,
    steps: 0,
    amount: 0,
    unit: 'samples',
    trainLoss: 0,
    peakMemory: {},
    files: [],
  });
  expect(lines).toEqual(['time    0:01, 0 steps']);
});

it('writes numbers as people read them', () => {
  expect([0, 1023, 1536, 5 * 2 ** 30].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.5 KB',
    '5 GB',
  ]);
  expect([0, 12.345, 999, 1e4, 2.5e9].map(formatCount)).toEqual([
    '0',
    '12.3',
    '999',
    '10.0k',
    '2.50G',
  ]);
  expect([0, 59.6, 3723, Number.POSITIVE_INFINITY].map(formatDuration)).toEqual([
    '0:00',
    '1:00',
    '1:02:03',
    '--:--',
  ]);
});

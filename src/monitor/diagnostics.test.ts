import { expect, it } from 'vitest';
import { Diagnostics, type DiagnosticSections } from './index.ts';

const off: DiagnosticSections = {
  steps_per_print: null,
  wall_clock_breakdown: false,
  comms_logger: { enabled: false, prof_all: true, prof_ops: [] },
};
const record = {
  work: 1,
  queue: 'compute',
  name: 'forward.0',
  enqueuedNs: 0,
  startNs: 0,
  endNs: 2e6,
} as const;
const stats = ['allReduce', 'barrier'].map((operation) => ({
  operation,
  bytes: 8,
  calls: 1,
  totalNs: 1e6,
  waitNs: 0,
}));
const report = (step: number) => ({ step, skipped: 1, learningRate: 0.001 });

it('says nothing unless asked', () => {
  const silent = new Diagnostics(off, 2);
  expect(silent.needsRecords).toBe(false);
  expect([1, 10, 100].flatMap((step) => silent.afterStep(report(step)))).toEqual([]);
  expect(silent.atEnd(stats, 1)).toEqual({ lines: [], events: [] });
});

it('prints every n-th step', () => {
  const every5 = new Diagnostics({ ...off, steps_per_print: 5 }, 2);
  const lines = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].flatMap((step) => every5.afterStep(report(step)));
  expect(lines).toEqual(['step=5, skipped=1, lr=0.001', 'step=10, skipped=1, lr=0.001']);
});

it('breaks down the steps since the last report only', () => {
  const timed = new Diagnostics({ ...off, steps_per_print: 2, wall_clock_breakdown: true }, 2);
  timed.collect([record]);
  expect(timed.afterStep(report(1))).toEqual([]);
  timed.collect([record]);
  expect(timed.afterStep(report(2))[1]).toContain('forward: 4.00');
  timed.collect([record]);
  expect(timed.afterStep(report(4))[1]).toContain('forward: 2.00');
});

it('tells what updates waited for a checkpoint, which is no compute', () => {
  const timed = new Diagnostics({ ...off, steps_per_print: 1, wall_clock_breakdown: true }, 2);
  const wait = { ...record, name: 'wait for checkpoint', endNs: 3e6 };
  timed.collect([wait, { ...record, queue: 'comm', name: 'allReduce', endNs: 1e6 }]);
  const line = timed.afterStep(report(1))[1];
  expect(line).toContain('communication: 1.00 | waiting for a checkpoint: 3.00');
  expect(line).toContain('overlapped communication: 0.00');
});

it('shows the operations that prof_ops names when prof_all is off', () => {
  const all = new Diagnostics({ ...off, comms_logger: { ...off.comms_logger, enabled: true } }, 2);
  expect(all.atEnd(stats, 1).lines.map((line) => line.split(' ')[0])).toEqual(
    expect.arrayContaining(['allReduce', 'barrier']),
  );
  const some = new Diagnostics(
    { ...off, comms_logger: { enabled: true, prof_all: false, prof_ops: ['all_reduce'] } },
    2,
  );
  expect(some.atEnd(stats, 1).lines.join('\n')).not.toContain('barrier');
  expect(some.atEnd(stats, 1).events.map(({ name }) => name.split('/')[1])).toEqual(
    Array(6).fill('allReduce'),
  );
});

it("gives monitors the table's numbers, by operation and size", () => {
  const all = new Diagnostics({ ...off, comms_logger: { ...off.comms_logger, enabled: true } }, 2);
  const calls = { operation: 'allReduce', bytes: 1e6, calls: 4, totalNs: 8e6, waitNs: 0 };
  // 2 ms each: 2·1 MB in it as DeepSpeed counts, and 2·½ MB over a ring's link.
  const values = {
    bytes: 4e6,
    calls: 4,
    total_latency_ms: 8,
    avg_latency_ms: 2,
    tput_avg_gbps: 8,
    busbw_avg_gbps: 4,
  };
  expect(all.atEnd([calls], 96).events).toEqual(
    Object.entries(values).map(([name, value]) => ({
      name: `Comms/allReduce/1000000/${name}`,
      value,
      step: 96,
    })),
  );
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { WorkRecord } from '../native/contract.ts';
import { bandwidth } from './comms-table.ts';
import {
  breakDown,
  renderBreakdown,
  renderCommsTable,
  renderLossCurve,
  renderPerfetto,
  renderTimeline,
} from './index.ts';
import { ticks } from './svg.ts';

function work(
  queue: WorkRecord['queue'],
  name: string,
  startMs: number,
  endMs: number,
): WorkRecord {
  return {
    work: 1,
    queue,
    name,
    enqueuedNs: startMs * 1e6,
    startNs: startMs * 1e6,
    endNs: endMs * 1e6,
  };
}

/** Well-formed enough: every tag that opens closes, in order. */
function expectBalanced(svg: string): void {
  const open: string[] = [];
  for (const [, close, name, selfClosing] of svg.matchAll(/<(\/?)([a-z]+)[^<>]*?(\/?)>/g)) {
    if (selfClosing) continue;
    if (close) expect(open.pop()).toBe(name);
    else open.push(name!);
  }
  expect(open).toEqual([]);
}

describe('ticks', () => {
  it('are round, inside the domain, evenly spaced and about as many as asked for', () => {
    const domain = fc.tuple(
      fc.double({ min: -1e6, max: 1e6, noNaN: true }),
      fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
    );
    fc.assert(
      fc.property(domain, ([from, span]) => {
        const marks = ticks([from, from + span], 6);
        expect(marks.length).toBeGreaterThanOrEqual(2);
        expect(marks.length).toBeLessThanOrEqual(7);
        // Rounding of from + span and of the quotient: a few units in the last place of the larger.
        const slack = 1e-9 * Math.max(span, Math.abs(from));
        expect(marks[0]).toBeGreaterThanOrEqual(from - slack);
        expect(marks.at(-1)).toBeLessThanOrEqual(from + span + slack);
      }),
    );
  });

  it('print without noise', () => {
    expect(ticks([0, 0.7], 6).map(String)).toEqual(['0', '0.2', '0.4', '0.6']);
    expect(ticks([0, 0.5], 5).map(String)).toEqual(['0', '0.1', '0.2', '0.3', '0.4', '0.5']);
  });
});

describe('the loss curve', () => {
  const points = (svg: string) =>
    [...svg.matchAll(/<polyline points="([^"]*)"/g)].map(([, list]) =>
      list!.split(' ').map((pair) => pair.split(',').map(Number)),
    );

  it('places higher losses higher and later steps further right', () => {
    const train = [9, 7, 6, 5].map((loss, i) => ({ step: i + 1, loss }));
    const [raw] = points(renderLossCurve({ train }));
    const xs = raw!.map(([x]) => x!);
    const ys = raw!.map(([, y]) => y!);
    expect(xs).toEqual([...xs].sort((a, b) => a - b));
    expect(ys).toEqual([...ys].sort((a, b) => a - b));
    // Equal distances of losses stay equal: 9→7 is twice 7→6, to the two decimals that are written.
    expect(ys[1]! - ys[0]!).toBeCloseTo(2 * (ys[2]! - ys[1]!), 1);
  });

  it('names the unit of the loss only where it has one', () => {
    const train = [{ step: 1, loss: 2 }];
    expect(renderLossCurve({ train, unit: 'nats' })).toContain('>nats</text>');
    expect(renderLossCurve({ train })).not.toContain('nats');
  });

  it('smooths a constant loss to itself and halves noise', () => {
    const flat = Array.from({ length: 200 }, (_, step) => ({ step, loss: 3 }));
    const [raw, smooth] = points(renderLossCurve({ train: flat }));
    expect(smooth).toEqual(raw);
    const noisy = flat.map(({ step }) => ({ step, loss: 3 + (step % 2) }));
    const [jagged, calm] = points(renderLossCurve({ train: noisy }));
    const range = (line: number[][]) => {
      const inner = line.slice(20, 180).map(([, y]) => y!);
      return Math.max(...inner) - Math.min(...inner);
    };
    expect(range(calm!)).toBeLessThan(range(jagged!) / 2);
  });

  it('survives what a run can produce', () => {
    for (const train of [
      [],
      [{ step: 0, loss: 1 }],
      [
        { step: 1, loss: Number.NaN },
        { step: 2, loss: Number.POSITIVE_INFINITY },
      ],
    ]) {
      const svg = renderLossCurve({
        train,
        evaluation: train,
        title: 'a < b & "c"',
        references: [{ label: '<x>', loss: 2 }],
      });
      expect(svg).not.toMatch(/NaN|Infinity/);
      expectBalanced(svg);
    }
    const long = Array.from({ length: 200_000 }, (_, step) => ({ step, loss: 1 + (step % 7) }));
    expect(renderLossCurve({ train: long }).length).toBeLessThan(100_000);
  });
});

describe('timelines', () => {
  const traces = [
    {
      rank: 0,
      records: [work('compute', 'forward:h.0', 0, 4), work('comm', 'reduceScatter', 3, 5)],
    },
    { rank: 1, records: [work('compute', 'forward:h.0', 1, 6)] },
  ];

  it('draw one bar per work, in the right proportion', () => {
    const svg = renderTimeline(traces);
    expectBalanced(svg);
    const widths = [...svg.matchAll(/<rect [^>]*width="([\d.]+)"[^>]*rx/g)].map((match) =>
      Number(match[1]),
    );
    expect(widths).toHaveLength(3);
    expect(widths[0]! / widths[1]!).toBeCloseTo(2, 2);
    expect(svg).toContain('rank 1 compute');
    expect(svg).not.toContain('rank 1 comm');
    expectBalanced(renderTimeline([]));
  });

  it('become a Chrome trace in microseconds from the first span of all ranks', () => {
    const spans = [{ name: 'step', category: 'hook', startNs: -1e6, endNs: 7e6 }];
    const trace = renderPerfetto([{ ...traces[0]!, spans }, traces[1]!]);
    const complete = trace.traceEvents.filter(({ ph }) => ph === 'X');
    expect(complete.map(({ pid, cat, ts, dur }) => [pid, cat, ts, dur])).toEqual([
      [0, 'compute', 1000, 4000],
      [0, 'comm', 4000, 2000],
      [0, 'javascript', 0, 8000],
      [1, 'compute', 2000, 5000],
    ]);
    const threads = trace.traceEvents.filter(({ name }) => name === 'thread_name');
    for (const event of complete)
      expect(threads).toContainEqual(
        expect.objectContaining({ pid: event.pid, tid: event.tid, args: { name: event.cat } }),
      );
  });
});

it('the breakdown sums phases and finds what was hidden behind compute', () => {
  const records = [
    work('compute', 'layer.0', 0, 2),
    work('compute', 'layer.0.backward', 2, 8),
    work('comm', 'reduceScatter', 5, 7),
    work('comm', 'reduceScatter', 7, 10),
    work('compute', 'squaredNorm', 9, 10),
    work('compute', 'optimizerStep', 10, 11),
    work('io', 'write', 11, 12),
  ];
  const breakdown = breakDown(records);
  expect(breakdown).toEqual({
    phases: { forward: 2, backward: 6, communication: 5, optimizer: 2, files: 1 },
    overlappedMs: 4,
  });
  expect(renderBreakdown(breakdown)).toBe(
    'time (ms) | forward: 2.00 | backward: 6.00 | communication: 5.00 | optimizer: 2.00 | files: 1.00 | overlapped communication: 4.00',
  );
});

describe('the communication table', () => {
  const stats = [
    { operation: 'broadcast', bytes: 1024, calls: 1, totalNs: 1e6, waitNs: 0 },
    { operation: 'allReduce', bytes: 2 ** 20, calls: 4, totalNs: 8e6, waitNs: 0 },
    { operation: 'allReduce', bytes: 1024, calls: 2, totalNs: 1e6, waitNs: 0 },
    { operation: 'barrier', bytes: 0, calls: 0, totalNs: 0, waitNs: 0 },
  ];

  it('groups by operation and sorts by size', () => {
    const lines = renderCommsTable(stats, { worldSize: 2 });
    expect(lines[0]).toMatch(
      /^Comm. Op +Message Size +Count +Total Latency\(ms\) +Avg Latency\(ms\)/,
    );
    expect(lines.slice(1).map((line) => line.trim().split(/ {2,}/)[0])).toEqual([
      'allReduce',
      '1 KB',
      '1 MB',
      'broadcast',
      '1 KB',
    ]);
    expect(lines[3]).toMatch(/1 MB +4 +8\.00 +2\.00 +8\.39 +4\.19$/);
  });

  it('shows only the operations asked for', () => {
    expect(renderCommsTable(stats, { worldSize: 2, operations: ['broadcast'] })).toHaveLength(3);
    // DeepSpeed's own spelling, as prof_ops has it.
    expect(renderCommsTable(stats, { worldSize: 2, operations: ['all_reduce'] })).toHaveLength(4);
  });

  it("counts bus bandwidth as a ring's links carry it", () => {
    // 1 GB in 1 s over 4 ranks: an all-reduce sends 2·3/4 of it over each link, a gather half of that.
    expect(bandwidth('allReduce', 1e9, 1, 4)).toEqual({ algorithm: 16, bus: 12 });
    expect(bandwidth('all_gather', 1e9, 1, 4)).toEqual({ algorithm: 8, bus: 6 });
    expect(bandwidth('broadcast', 1e9, 0, 4)).toEqual({ algorithm: 0, bus: 0 });
  });
});

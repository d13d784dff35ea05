/** Engine works and JavaScript spans as a Chrome trace, which ui.perfetto.dev and chrome://tracing open. */
import type { WorkRecord } from '../native/contract.ts';

export interface RankTrace {
  rank: number;
  records: readonly WorkRecord[];
  /** JavaScript work on the same clock. */
  spans?: readonly { name: string; category: string; startNs: number; endNs: number }[];
}

const lanes = ['javascript', 'compute', 'comm', 'io'] as const;
type Lane = (typeof lanes)[number];

interface TraceEvent {
  ph: 'X' | 'M';
  name: string;
  pid: number;
  tid: number;
  /** Microseconds. */
  ts?: number;
  dur?: number;
  cat?: string;
  args?: Record<string, unknown>;
}

/** One process per rank, one lane per queue; time starts at the first span of all ranks. */
export function renderPerfetto(traces: readonly RankTrace[]): { traceEvents: TraceEvent[] } {
  const starts = traces.flatMap(({ records, spans = [] }) =>
    [...records, ...spans].map(({ startNs }) => startNs),
  );
  const origin = starts.reduce((least, start) => Math.min(least, start), Number.POSITIVE_INFINITY);
  const micros = (ns: number) => ns / 1000;
  return { traceEvents: traces.flatMap(eventsOf) };

  function eventsOf({ rank, records, spans = [] }: RankTrace): TraceEvent[] {
    const span = (lane: Lane, name: string, startNs: number, endNs: number): TraceEvent => ({
      ph: 'X',
      name,
      pid: rank,
      tid: lanes.indexOf(lane),
      ts: micros(startNs - origin),
      dur: micros(endNs - startNs),
      cat: lane,
    });
    const names: TraceEvent[] = [
      { ph: 'M', name: 'process_name', pid: rank, tid: 0, args: { name: `rank ${rank}` } },
      ...lanes.map(
        (lane, tid): TraceEvent => ({
          ph: 'M',
          name: 'thread_name',
          pid: rank,
          tid,
          args: { name: lane },
        }),
      ),
    ];
    const works = records.map(({ work, queue, name, enqueuedNs, startNs, endNs }) => ({
      ...span(queue, name, startNs, endNs),
      args: { work, waitedUs: micros(startNs - enqueuedNs) },
    }));
    return [
      ...names,
      ...works,
      ...spans.map((s) => span('javascript', `${s.category} ${s.name}`, s.startNs, s.endNs)),
    ];
  }
}

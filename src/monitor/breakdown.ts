/** wall_clock_breakdown: what the steps since the last report spent their time on. */
import type { WorkRecord } from '../native/contract.ts';

export interface Breakdown {
  /** Milliseconds by phase, summed over works; queues run side by side, so phases may overlap. */
  phases: Record<string, number>;
  /** Communication that ran while compute ran too. */
  overlappedMs: number;
}

/** Sums works by the part of their name before the first `.` or `:`, the phase that enqueued them. */
export function breakDown(records: readonly WorkRecord[]): Breakdown {
  const phases: Record<string, number> = {};
  for (const { name, startNs, endNs } of records) {
    const phase = name.split(/[.:]/)[0]!;
    phases[phase] = (phases[phase] ?? 0) + (endNs - startNs) / 1e6;
  }
  const spans = (queue: WorkRecord['queue']) =>
    records
      .filter((record) => record.queue === queue)
      .map(({ startNs, endNs }): Span => [startNs, endNs])
      .sort(([a], [b]) => a - b);
  return { phases, overlappedMs: intersection(spans('compute'), spans('comm')) / 1e6 };
}

type Span = [start: number, end: number];

/** Length of the time in which both lists run. A queue runs one work at a time: spans of one list do not overlap. */
function intersection(a: readonly Span[], b: readonly Span[]): number {
  let total = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const [startA, endA] = a[i]!;
    const [startB, endB] = b[j]!;
    total += Math.max(0, Math.min(endA, endB) - Math.max(startA, startB));
    if (endA < endB) i++;
    else j++;
  }
  return total;
}

/** DeepSpeed's form: `time (ms) | forward: 12.34 | backward: 45.67 | ...`. */
export function renderBreakdown({ phases, overlappedMs }: Breakdown): string {
  const cells = Object.entries(phases).map(([name, ms]) => `${name}: ${ms.toFixed(2)}`);
  return ['time (ms)', ...cells, `overlapped communication: ${overlappedMs.toFixed(2)}`].join(
    ' | ',
  );
}

/** wall_clock_breakdown: what the steps since the last report spent their time on. */
import type { WorkRecord } from '../native/contract.ts';

export interface Breakdown {
  /** Milliseconds by phase, summed over works; queues run side by side, so phases may overlap. */
  phases: { [P in Phase]?: number };
  /** Communication that ran while compute ran too. */
  overlappedMs: number;
}

/** The order of a step; what a step did not do is left out. */
const phaseNames = [
  'forward',
  'backward',
  'communication',
  'optimizer',
  'copies',
  'files',
  'waiting for a checkpoint',
] as const;
type Phase = (typeof phaseNames)[number];

const phaseOfWork: Readonly<Record<string, Phase>> = {
  squaredNorm: 'optimizer',
  optimizerStep: 'optimizer',
  fill: 'copies',
  copy: 'copies',
  axpby: 'copies',
};

/** Of an update that changes what a checkpoint in the background has yet to read. */
const waiting = 'wait for checkpoint';

/** The engine names its own works; every other work of the compute queue runs a segment, by the name of its graph. */
function phaseOf({ queue, name }: WorkRecord): Phase {
  if (name === waiting) return 'waiting for a checkpoint';
  if (queue === 'comm') return 'communication';
  if (queue === 'io') return 'files';
  return phaseOfWork[name] ?? (/\bbackward\b/.test(name) ? 'backward' : 'forward');
}

/** Sums works by phase. */
export function breakDown(records: readonly WorkRecord[]): Breakdown {
  const phases: Breakdown['phases'] = {};
  for (const phase of phaseNames) {
    const works = records.filter((record) => phaseOf(record) === phase);
    if (works.length > 0)
      phases[phase] = works.reduce((sum, { startNs, endNs }) => sum + (endNs - startNs), 0) / 1e6;
  }
  const spans = (queue: WorkRecord['queue']) =>
    records
      .filter((record) => record.queue === queue && record.name !== waiting)
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

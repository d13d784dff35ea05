/** The reports that config keys ask for: steps_per_print, wall_clock_breakdown, comms_logger. */
import type { CommStats, WorkRecord } from '../native/contract.ts';
import { type Breakdown, breakDown, renderBreakdown } from './breakdown.ts';
import { type CommsTableOptions, commsEvents, renderCommsTable } from './comms-table.ts';
import type { MonitorEvent } from './events.ts';

/** These keys of a config, as `resolveConfig` leaves them. */
export interface DiagnosticSections {
  steps_per_print: number | null;
  wall_clock_breakdown: boolean;
  comms_logger: { enabled: boolean; prof_all: boolean; prof_ops: readonly string[] };
}

export interface StepReport {
  /** Optimizer steps done, skipped ones included. */
  step: number;
  skipped: number;
  learningRate: number;
}

/** Between breakdowns where steps_per_print is null. */
const BREAKDOWN_STEPS = 10;

/**
 * Turns works and counters into lines. It prints nothing and reads no engine: the host feeds it and
 * shows the lines on rank 0.
 */
export class Diagnostics {
  readonly #sections: DiagnosticSections;
  readonly #worldSize: number;
  #records: WorkRecord[] = [];
  #breakdown: Breakdown | null = null;

  constructor(sections: DiagnosticSections, worldSize: number) {
    this.#sections = sections;
    this.#worldSize = worldSize;
  }

  /** The engine must trace, and `collect` be fed, only if this is true. */
  get needsRecords(): boolean {
    return this.#sections.wall_clock_breakdown;
  }

  collect(records: readonly WorkRecord[]): void {
    if (!this.needsRecords) return;
    for (const record of records) this.#records.push(record);
  }

  /** Lines that are due after a step; mostly none. */
  afterStep({ step, skipped, learningRate }: StepReport): string[] {
    const { steps_per_print: interval, wall_clock_breakdown: timed } = this.#sections;
    this.#breakdown = null;
    if (step % (interval ?? BREAKDOWN_STEPS) !== 0) return [];
    const lines: string[] = [];
    if (interval !== null) lines.push(`step=${step}, skipped=${skipped}, lr=${learningRate}`);
    if (timed) {
      this.#breakdown = breakDown(this.#records);
      lines.push(renderBreakdown(this.#breakdown));
    }
    this.#records = [];
    return lines;
  }

  /** What the last `afterStep` broke down, for monitors; null when none was due. */
  get breakdown(): Breakdown | null {
    return this.#breakdown;
  }

  /** The table of all collectives of the run, if asked for, and its numbers for monitors. */
  atEnd(stats: readonly CommStats[], step: number): { lines: string[]; events: MonitorEvent[] } {
    const { enabled, prof_all, prof_ops } = this.#sections.comms_logger;
    if (!enabled) return { lines: [], events: [] };
    const options: CommsTableOptions = {
      worldSize: this.#worldSize,
      ...(!prof_all && { operations: prof_ops }),
    };
    return { lines: renderCommsTable(stats, options), events: commsEvents(stats, options, step) };
  }
}

/** What training shows and writes down: progress, events, plots, traces, tables. */
import { csvMonitor } from './csv.ts';
import { combineMonitors, type Monitor, type MonitorFolder } from './events.ts';
import { tensorBoardMonitor } from './tensorboard.ts';

export { type Breakdown, breakDown, renderBreakdown } from './breakdown.ts';
export { type CommsTableOptions, renderCommsTable } from './comms-table.ts';
export { combineMonitors, type Monitor, type MonitorEvent, type MonitorFolder } from './events.ts';
export { type DiagnosticSections, Diagnostics, type StepReport } from './diagnostics.ts';
export { writing } from './output-folder.ts';
export { type LossCurve, type LossPoint, renderLossCurve } from './loss-curve.ts';
export { type RankTrace, renderPerfetto } from './perfetto.ts';
export { createProgress, type Progress, type ProgressUpdate } from './progress.ts';
export { renderSummary, type RunSummary } from './summary.ts';
export { renderTimeline } from './timeline.ts';

/** The monitor sections of a config, as `resolveConfig` leaves them. */
export interface MonitorSections {
  tensorboard: MonitorFolder & { enabled: boolean };
  csv_monitor: MonitorFolder & { enabled: boolean };
}

/**
 * The monitors that a config enables, as one; on ranks other than 0 it writes nothing.
 *
 * @param resumeAt the last step that the checkpoint resumed from has seen, in events' own unit
 * @throws OUTPUT_NOT_WRITABLE when a folder cannot be made
 */
export function createMonitor(
  { tensorboard, csv_monitor }: MonitorSections,
  rank: number,
  resumeAt?: number,
): Monitor {
  if (rank !== 0) return combineMonitors([]);
  return combineMonitors([
    ...(tensorboard.enabled ? [tensorBoardMonitor(tensorboard, resumeAt)] : []),
    ...(csv_monitor.enabled ? [csvMonitor(csv_monitor, resumeAt)] : []),
  ]);
}

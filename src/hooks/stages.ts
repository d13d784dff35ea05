/**
 * The order of taps on one hook. A plugin names a stage, never another plugin: who comes first is
 * decided here and nowhere else.
 */
export const stages = [
  /** Decide what this step is (layer drop, curriculum). */
  'plan',
  /** Make parameters and windows ready. */
  'acquire',
  /** The host's own work is enqueued between `acquire` and `reduce`. */
  'compute',
  /** Gradients leave: convert, compress, reduce. */
  'reduce',
  /** Let go of what `acquire` took. */
  'release',
  /** Watch only: metrics, monitors, sanity checks. */
  'observe',
] as const;

export type Stage = (typeof stages)[number];

/** tapable sorts by this number. */
export function stageOrder(stage: Stage): number {
  return stages.indexOf(stage);
}

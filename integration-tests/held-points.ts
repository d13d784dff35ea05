import { setTimeout as sleep } from 'node:timers/promises';
import { loadAddon } from '../src/native/index.ts';

/** After so many milliseconds without a point the writer is let go once more: it may have been told before it waited. */
const patience = 200;

/**
 * Runs `action`, and `look` at each numbered point of writing that it passes while the writer waits there: files are then
 * as a kill at that point would leave them. Nothing may write on this thread.
 *
 * @returns points passed
 */
export async function atEveryPoint(
  action: () => Promise<unknown>,
  look: (point: number) => void,
): Promise<number> {
  const addon = loadAddon();
  let points = 0;
  let isRunning = true;
  addon.setFaultPoint(0);
  addon.holdFaultPoint(1);
  const running = action().finally(() => {
    isRunning = false;
  });
  try {
    for (let since = Date.now(); isRunning; await sleep(1)) {
      const passed = addon.setFaultPoint(0);
      points += passed;
      if (passed > 0) look(points);
      if (passed === 0 && Date.now() - since < patience) continue;
      addon.holdFaultPoint(1);
      since = Date.now();
    }
  } finally {
    addon.holdFaultPoint(0);
    await running;
  }
  return points;
}

import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits for the work, but no longer than that. The clock stops with the work: one that ran on would keep the
 * process alive to its end.
 */
export async function atMost(milliseconds: number, work: Promise<unknown>): Promise<void> {
  const clock = new AbortController();
  const limit = sleep(milliseconds, undefined, { signal: clock.signal }).catch(() => {});
  try {
    await Promise.race([work, limit]);
  } finally {
    clock.abort();
  }
}
